"""The gateway under attack: configuration, process and observable state.

Two deployments: `tokens` is a plaintext listener with bearer tokens, where strangers can speak
HTTP/2; `mtls` requires client certificates, and also has the plaintext health port. Everything
except ports and files has the documented default. The platform is that of the sandbox.
"""

import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.request

HONEST_TOKEN, ATTACKER_TOKEN = "honest-caller-of-the-suite", "attacking-caller-of-the-suite"
HONEST_CERTIFICATE = "spiffe://abuse/honest"
START_S = 20
# The gateway stops within 30 s of the signal.
STOP_S = 35

COMMON = """
[server]
listen = "127.0.0.1:{main}"
health_listen = "127.0.0.1:{health}"
drain_lame_duck = "10ms"
{tls}
[admin]
listen = "127.0.0.1:{admin}"
[api_clients.sandbox]
data_center_url = "http://127.0.0.1:{platform}"
client_id = "sandbox"
client_secret_file = "{folder}/client-secret"
{callers}
[[access.rules]]
callers = ["{honest}"]
rate = "unlimited"
user_rate = "unlimited"
users = "all"
[[access.rules]]
callers = ["token:attacker"]
users = "all"
[audit]
sink = "{folder}/audit.jsonl"
"""
TOKENS = """
[callers.tokens]
honest = "sha256:{honest}"
attacker = "sha256:{attacker}"
"""
TLS = """
[server.tls]
certificate_file = "{folder}/gateway.crt"
private_key_file = "{folder}/gateway.key"
client_ca_file = "{folder}/ca.crt"
"""


def free_ports(number):
    """Returns distinct ports that were free at the time of the call."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until_it_listens(process, port):
    """Waits until the port accepts connections."""
    deadline = time.monotonic() + START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args} does not listen")
        time.sleep(0.02)


def make_certificates(folder):
    """Creates an authority and the certificates of the gateway and the honest caller."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-days", "1", "-subj", "/CN=abuse", "-keyout", "ca.key", "-out", "ca.crt")
    for name, alternative in {"gateway": "DNS:localhost", "honest": f"URI:{HONEST_CERTIFICATE}"}.items():
        openssl("req", *key, "-subj", "/CN=ignored", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
        by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", f"{name}.ext"]
        openssl("x509", "-req", "-in", f"{name}.csr", *by, "-out", f"{name}.crt")
        (folder / f"{name}.key").chmod(0o600)


def sha256(token):
    """Returns the hash of a bearer token for the configuration."""
    return hashlib.sha256(token.encode()).hexdigest()


class Platform:
    """The sandbox: the platform of the attacked gateway, and a gateway that is not attacked, for
    comparison."""

    def __init__(self, binary, folder):
        self.port, self.gateway_port = free_ports(2)
        flags = ["--listen", f"127.0.0.1:{self.gateway_port}", "--platform-listen", f"127.0.0.1:{self.port}"]
        with open(folder / "sandbox.log", "wb") as log:
            self.process = subprocess.Popen([binary, "sandbox", *flags], stdout=log, stderr=log)
        wait_until_it_listens(self.process, self.port)
        wait_until_it_listens(self.process, self.gateway_port)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Gateway:
    """A process of the real binary, for one attack."""

    def __init__(self, binary, folder, deployment, platform):
        main, health, admin = free_ports(3)
        self.ports = {"main": main, "health": health, "admin": admin}
        self._folder = folder
        self.audit, self.log = folder / "audit.jsonl", folder / "gateway.log"
        has_tls = deployment == "mtls"
        self.honest = HONEST_CERTIFICATE if has_tls else "token:honest"
        config = COMMON.format(
            **self.ports,
            platform=platform.port,
            folder=folder,
            tls=TLS.format(folder=folder) if has_tls else "",
            callers=TOKENS.format(honest=sha256(HONEST_TOKEN), attacker=sha256(ATTACKER_TOKEN)),
            honest=self.honest,
        )
        (folder / "gateway.toml").write_text(config)
        (folder / "client-secret").write_text("sandbox-secret\n")
        (folder / "client-secret").chmod(0o600)
        self.audit.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
        with open(self.log, "wb") as log:
            command = [binary, "serve", "--config", folder / "gateway.toml"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_until_it_listens(self.process, main)
        self.tls = self._context() if has_tls else None
        self.token = None if has_tls else HONEST_TOKEN

    def _context(self):
        context = ssl.create_default_context(cafile=self._folder / "ca.crt")
        context.load_cert_chain(self._folder / "honest.crt", self._folder / "honest.key")
        context.set_alpn_protocols(["h2"])
        return context

    def page(self, path, timeout):
        """Returns the text of a page on the admin port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=timeout) as page:
            return page.read().decode()

    def value(self, metric):
        """Returns the sum of the metric's series; `None` if there is no such metric."""
        text = self.page("/metrics", timeout=10)
        if f"# TYPE {metric.family} " not in text:
            return None
        wanted = {f'{name}="{value}"' for name, value in metric.labels.items()}
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(rf"{metric.family}(?:\{{(.*)\}})? (\S+)", line)
            if match and wanted <= set((match[1] or "").split(",")):
                total += float(match[2])
        return total

    def peak_mib(self):
        """Returns the maximum resident memory of the process since its start, in MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    def cpu_seconds(self):
        """Returns the processor time of the process since its start."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def written_bytes(self):
        """Returns the total size of the audit file and the log."""
        return sum(path.stat().st_size for path in (self.audit, self.log) if path.exists())

    def recorded_calls(self):
        """Returns the number of calls in the audit log: successful ones of the honest caller, and all.
        Refused calls beyond a rate share a record."""
        honest = total = 0
        with open(self.audit) as lines:
            for record in map(json.loads, lines):
                total += {"call": 1, "refused_calls": record.get("count", 0)}.get(record["event"], 0)
                honest += record.get("caller") == self.honest and record.get("code") == "OK"
        return honest, total

    def stop(self):
        """Stops the process like a service manager, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
