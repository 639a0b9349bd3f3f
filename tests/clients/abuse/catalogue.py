"""The attack type and the list of all attacks.

An attack is a coroutine that runs in a separate process (`attacker.py`), with the properties that
the verdict needs (`verdict.py`). To add one, decorate a function in one of the `attacks_*.py` files.
"""

import dataclasses
import importlib
from collections.abc import Awaitable, Callable

MODULES = ["attacks_streams", "attacks_frames", "attacks_connections", "attacks_calls"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that must grow during an attack, summed over the series that have all `labels`."""

    family: str
    labels: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self):
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.family}{{{labels}}}" if labels else self.family


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attack and its properties.

    `rate` is the number of `unit` per second that the attacker sends. With `held` it keeps that many
    open, and `rate` is how fast it replaces those that the gateway closes. Rates are far below the
    capacity of the machine, so that attacker and gateway fit on two cores and slow responses are
    caused by the gateway.

    `addresses` is the number of source addresses of the attack; they are not loopback addresses if
    the machine allows it. An attack with `is_of_one_peer` tests a limit per address, which does not
    apply to loopback addresses.

    With `ends_connections` the gateway must close the connections of each variant of the attack.
    `max_ratio` limits p50 and p99 of the well-behaved caller during the attack, relative to those
    without it. `pending` describes what the gateway still lacks; such an attack runs only with
    `--all`.
    """

    name: str
    run: Callable[..., Awaitable[None]]
    stopped_by: str
    metric: Metric
    rate: float
    unit: str
    held: int | None = None
    deployment: str = "tokens"
    addresses: int = 1
    is_of_one_peer: bool = False
    ends_connections: bool = False
    max_ratio: float = 3
    pending: str | None = None

    @property
    def volume(self):
        """Returns the size of the attack for the table."""
        rate = f"{self.rate:,.0f} {self.unit}/s"
        return f"{self.held:,} {self.unit} held, {rate}" if self.held else rate


_attacks: list[Attack] = []


def attack(name, **facts):
    """Adds the decorated coroutine to the list. Its docstring describes the attack."""

    def add(run):
        _attacks.append(Attack(name=name, run=run, **facts))
        return run

    return add


def all_attacks():
    """Returns all attacks, in the order of the table."""
    for module in MODULES:
        importlib.import_module(module)
    return list(_attacks)
