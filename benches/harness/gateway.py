"""The gateway with all features enabled: rules, quotas, audit to a file, metrics, log at `info`."""

import base64
import hashlib
import os
import pathlib

from benches.harness.credentials import AUDIENCE, ISSUER
from benches.harness.process import Process, free_ports

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
worker_threads = {workers}
drain_lame_duck = "10ms"
refused_call_rate = "1000000/s"
refused_call_burst = 1000000
{tls}
[admin]
listen = "127.0.0.1:{admin}"
[api_clients.bench]
data_center_url = "{upstream}"
client_id = "bench"
client_secret_file = "{folder}/client-secret"
{authority}
{sealing}
{callers}
[audit]
sink = "{sink}"
[telemetry]
log_level = "{log_level}"
{rules}
"""
TLS = """
[server.tls]
certificate_file = "{0.certificate}"
private_key_file = "{0.key}"
"""
# A second API client, which issues sealed tokens.
SEALING_CLIENT = "sealing"
SEALING = """
default = true
[token_binding]
keys_file = "{folder}/token-keys"
[api_clients.{client}]
bind_tokens = "on"
data_center_url = "{upstream}"
client_id = "bench"
client_secret_file = "{folder}/client-secret"
{authority}
"""
JWT = """
[callers.jwt]
issuer = "{issuer}"
audience = "{audience}"
jwks_file = "{jwks}"
"""
# A rule of another team, which is evaluated for every call and matches none.
OTHER_RULE = """
[[access.rules]]
callers = ["spiffe://bench.example/ns/team-{number}/sa/*", "jwt:team-{number}-*"]
logins = ["*@customer-{number}.example"]
"""
# The same with globs that have wildcards at both ends.
OTHER_INNER_RULE = """
[[access.rules]]
callers = ["*/team-{number}/*", "jwt:*-team-{number}-*"]
logins = ["*@customer-{number}.*"]
"""
# The last rule allows the calls of the benchmark. Its quotas are counted but never exceeded.
RULE = """
[[access.rules]]
callers = {callers}
rate = "1000000/s"
burst = 1000000
user_rate = "1000000/s"
user_burst = 1000000
logins = ["*@mysite.com", "*@customer.example"]
"""
# Number of rules in benchmarks that are not about rules.
RULES = 10


class Gateway:
    """One process of the release binary, with the documented defaults wherever possible.

    `certificates` switch TLS on, `issuer` accepts its JWTs, `seals` adds an API client that issues sealed tokens, and `tokens` are bearer tokens by
    the names of their callers. `wrapper` is a command that runs the binary, such as valgrind.
    """

    def __init__(self, binary, folder, upstream, certificates=None, issuer=None, tokens=None, rules=RULES, other_rule=OTHER_RULE,
                 workers=1, has_audit=True, log_level="info", wrapper=(), environment=None, seals=False):  # fmt: skip
        folder = pathlib.Path(folder)
        self.port, self.admin = free_ports(2)
        (folder / "client-secret").write_text("bench-secret\n")
        (folder / "client-secret").chmod(0o600)
        authority = f'ca_file = "{upstream.authority}"' if upstream.authority else ""
        sealing = ""
        if seals:
            keys = folder / "token-keys"
            keys.write_text(f"bench {base64.b64encode(os.urandom(32)).decode()}\n")
            keys.chmod(0o600)
            sealing = SEALING.format(folder=folder, client=SEALING_CLIENT, upstream=upstream.url, authority=authority)
        callers, names = "", ["anonymous"]
        if issuer:
            names.append("jwt:*")
            callers += JWT.format(issuer=ISSUER, audience=AUDIENCE, jwks=issuer.jwks)
        if tokens:
            names.append("token:*")
            hashes = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in tokens.items()}
            callers += "[callers.tokens]\n" + "".join(f'{name} = "sha256:{digest}"\n' for name, digest in hashes.items())
        written = [other_rule.format(number=number) for number in range(1, rules)]
        written.append(RULE.format(callers=str(names).replace("'", '"')))
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(
            port=self.port,
            admin=self.admin,
            workers=workers,
            folder=folder,
            sink=folder / "audit.jsonl" if has_audit else "off",
            log_level=log_level,
            upstream=upstream.url,
            authority=authority,
            sealing=sealing,
            tls=TLS.format(certificates) if certificates else "",
            callers=callers,
            rules="".join(written),
        ))  # fmt: skip
        self.url = f"https://localhost:{self.port}" if certificates else f"http://127.0.0.1:{self.port}"
        self.process = Process("gateway", [*wrapper, binary, "serve", "--config", config], folder, environment)

    def stop(self):
        """Stops the process."""
        self.process.stop()
