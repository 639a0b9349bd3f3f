"""The calls that a profile-guided build is optimised for: see release/build.

Calls both methods, in clear text with HTTP/1.1 to the platform and over TLS with HTTP/2, with
and without JWTs and bearer tokens, and makes refused calls. Fails if a call has an unexpected
result, or if the gateway has written no profile.
"""

import argparse
import contextlib
import pathlib
import tempfile

from benches.harness.credentials import Certificates, Issuer
from benches.harness.gateway import Gateway
from benches.harness.load import Caller, Callers, Shape
from benches.harness.upstream import Upstream

CALLS = 3_000
REFUSED_CALLS = 1_000
LOGINS_AT_A_TIME = 4
SHAPES = (Shape(1, 1), Shape(8, 8))
TOKEN = "token-of-the-training-0123456789abcdef"
# No rule allows this user.
FOREIGN_LOGIN = "anna@elsewhere.example"


def log_in(folder, gateway, token):
    """Logs in with several tokens concurrently: the gateway refuses a token that is being spent."""
    callers = [Caller(folder, gateway.url, "login", ott=f"ott-{number}", token=token) for number in range(LOGINS_AT_A_TIME)]
    Callers(callers).load(Shape(1, 1), CALLS)


def train(options, uses_tls):
    """Trains one gateway process, which writes its profile when it stops."""
    environment = {"LLVM_PROFILE_FILE": str(options.profiles.resolve() / "%p-%m.profraw")}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        certificates = Certificates(folder) if uses_tls else None
        issuer = Issuer(folder)
        upstream = Upstream(options.upstream, folder, certificates)
        stack.callback(upstream.stop)
        gateway = Gateway(options.gateway, folder, upstream, certificates, issuer, {"trainer": TOKEN},
                          environment=environment)  # fmt: skip
        stack.callback(gateway.stop)
        gateway.process.wait_until(Caller(folder, gateway.url).is_answered, "no call is answered")
        for shape in SHAPES:
            for token in (None, TOKEN, issuer.token("RS256", "portal"), issuer.token("ES256", "portal")):
                Caller(folder, gateway.url, token=token).load(shape, CALLS)
                log_in(folder, gateway, token)
            for refused in ({"login": FOREIGN_LOGIN}, {"token": "unknown"}):
                Caller(folder, gateway.url, **refused).refused(shape, REFUSED_CALLS)


def main():
    """Trains one process in clear text and one with TLS."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", type=pathlib.Path, required=True)
    parser.add_argument("--upstream", type=pathlib.Path, required=True)
    parser.add_argument("--profiles", type=pathlib.Path, required=True)
    options = parser.parse_args()
    for uses_tls in (False, True):
        train(options, uses_tls)
    written = [path for path in options.profiles.glob("*.profraw") if path.stat().st_size]
    if len(written) < 2:
        raise SystemExit("the gateway has written no profile: was it built with -Cprofile-generate?")


if __name__ == "__main__":
    main()
