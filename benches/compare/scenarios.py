"""The compared scenarios and their loads."""

import dataclasses

from benches.harness.load import Shape

GATEWAY, PGO, ENVOY, BARE = "gateway", "gateway, PGO", "Envoy", "bare"
# Direct requests to the platform, to subtract its own latency.
PLATFORM = "platform"
# The load whose latency is compared with that of direct requests.
ALONE = Shape(1, 1)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One deployment of all subjects, and the loads on it."""

    name: str
    title: str
    shapes: tuple[Shape, ...] = (Shape(8, 8),)
    method: str = "issue"
    # Callers at the same time, each with that many connections. Each logs in with a token of its
    # own: the gateway refuses a token that another call is just spending.
    callers: int = 1
    # Both sides in TLS, with HTTP/2 to the platform; else clear text, with HTTP/1.1.
    tls: bool = False
    # Algorithm of the callers' JWTs.
    jwt: str | None = None
    delay_ms: int = 0
    # Subjects that do not support it.
    without: frozenset[str] = frozenset()


SCENARIOS = (
    Scenario("plain", "`IssueOtt`, clear text", (Shape(1, 1), Shape(8, 8), Shape(64, 4), Shape(1, 100))),
    Scenario("tls", "`IssueOtt`, TLS on both sides", (Shape(1, 1), Shape(8, 8)), tls=True),
    Scenario("jwt", "`IssueOtt`, caller with a JWT (RS256)", jwt="RS256", without=frozenset({BARE})),
    Scenario("login", "`LoginWithOtt`, TLS on both sides, 8 callers", (Shape(1, 1),), "login", tls=True, callers=8,
             without=frozenset({ENVOY})),
    Scenario("slow", "`IssueOtt`, TLS, platform answers after 20 ms", (Shape(20, 100),), tls=True, delay_ms=20),
)
