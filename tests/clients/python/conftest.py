"""Starts the sandbox of the real binary, and generates stubs from the contract."""

import pathlib
import socket
import subprocess
import sys
import time

import grpc
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def pytest_addoption(parser):
    parser.addoption("--gateway", default=str(ROOT / "target/debug/ott-gateway"))


@pytest.fixture(scope="session", autouse=True)
def stubs(tmp_path_factory):
    from grpc_tools import protoc

    out = tmp_path_factory.mktemp("stubs")
    import grpc_tools

    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'proto'}",
            f"-I{well_known}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            "ott/v1/ott_service.proto",
        ]
    )
    assert code == 0, "the contract compiles"
    sys.path.insert(0, str(out))
    return out


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Sandbox:
    def __init__(self, binary, *flags):
        self.gateway = f"127.0.0.1:{free_port()}"
        self.platform = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [binary, "sandbox", "--listen", self.gateway, "--platform-listen", self.platform, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def ready(self):
        try:
            with grpc.insecure_channel(self.gateway) as channel:
                grpc.channel_ready_future(channel).result(timeout=20)
        except grpc.FutureTimeoutError:
            self.process.kill()
            raise AssertionError(self.process.communicate()[0].decode()) from None
        return self

    def stop(self):
        started = time.monotonic()
        self.process.terminate()
        output, _ = self.process.communicate(timeout=35)
        return self.process.returncode, time.monotonic() - started, output.decode()


@pytest.fixture(scope="session")
def sandbox(request):
    running = Sandbox(request.config.getoption("--gateway")).ready()
    yield running
    code, took, output = running.stop()
    assert code == 0, output
    assert took < 30


@pytest.fixture
def channel(sandbox):
    with grpc.insecure_channel(sandbox.gateway) as channel:
        yield channel


@pytest.fixture
def service(channel):
    from ott.v1 import ott_service_pb2_grpc

    return ott_service_pb2_grpc.OttServiceStub(channel)
