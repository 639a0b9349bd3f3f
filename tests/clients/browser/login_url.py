"""Opens the login_url of an IssueOttResponse in a headless Chromium.

Usage: login_url.py GATEWAY_BINARY. Exits 0 only if the browser shows the console with the right
user logged in.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
from conftest import ROOT, Sandbox  # noqa: E402

JOHN = "johncustomer@mysite.com"


def stubs(out):
    from grpc_tools import protoc
    import grpc_tools

    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    assert (
        protoc.main(
            ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={out}",
             f"--grpc_python_out={out}", "ott/v1/ott_service.proto"]
        )
        == 0
    )
    sys.path.insert(0, out)


def browser():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    sys.exit("Chromium is missing: apt-get install chromium")


def page(url, profile):
    """Returns the document after its scripts have run."""
    # As root, for example in a container, Chromium requires --no-sandbox.
    done = subprocess.run(
        [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-extensions", "--no-proxy-server", f"--user-data-dir={profile}",
         "--virtual-time-budget=5000", "--timeout=60000", "--dump-dom", url],
        capture_output=True, timeout=120,
    )
    if done.returncode != 0:
        # The text of the exception would contain the URL with its token.
        sys.exit(f"Chromium failed ({done.returncode}):\n{done.stderr.decode()}")
    return done.stdout.decode()


def main():
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as profile:
        stubs(out)
        from ott.v1 import ott_service_pb2, ott_service_pb2_grpc

        sandbox = Sandbox(sys.argv[1]).ready()
        try:
            with grpc.insecure_channel(sandbox.gateway) as channel:
                service = ott_service_pb2_grpc.OttServiceStub(channel)
                request = ott_service_pb2.IssueOttRequest(login=JOHN, target_uri="/mc/")
                issued = service.IssueOtt(request, timeout=10)
            logged_in = page(issued.login_url, profile)
            assert JOHN in logged_in, f"the browser is not logged in:\n{logged_in}"
            assert "<h1 id=\"name\">John Customer</h1>" in logged_in, "this is not the console"
            assert issued.ott not in logged_in, "the page still shows the token"
            again = page(issued.login_url, tempfile.mkdtemp(dir=out))
            assert "Not logged in" in again and JOHN not in again, "a spent login URL logs nobody in"
        finally:
            code, _, output = sandbox.stop()
        assert code == 0, output
    print("the login URL logs a browser in, once")


if __name__ == "__main__":
    main()
