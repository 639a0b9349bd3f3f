"""What an attack is, and the list of all of them.

An attack is a coroutine that runs in a process of its own (`attacker.py`), and the facts
that the verdict needs (`verdict.py`). Adding one takes a decorated function in one of the
`attacks_*.py` files.
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
    """One attack and what is known about it.

    `rate` is in `unit` per second, and is what the attacker sends. With `held` it keeps that
    many of them open, and `rate` is how fast it replaces those that the gateway ends. Rates are
    far below what the machine can send, so that attacker and gateway fit on two cores and a
    slow answer is the gateway's doing.

    `addresses` is the number of source addresses that the attack is spread over; those are not
    loopback addresses where the machine allows it. An attack with `is_of_one_peer` tests a limit
    on one address, which loopback addresses do not have.

    With `ends_connections` the gateway must answer each variant of the attack by ending its
    connections. `max_ratio` limits p50 and p99 of the well-behaved caller during the attack, as
    a multiple of those without it. `pending` is what is still missing in the gateway; such an
    attack runs only with `--all`.
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
        """The attack's size as the table shows it."""
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
