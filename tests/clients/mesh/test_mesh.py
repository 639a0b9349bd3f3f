"""Behind Envoy: identification of callers, and the effect of Envoy's retries on one-time tokens."""

import time
import urllib.request

import conftest
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

ISSUE = "/api/2/idp/ott"
LOGIN = "/api/2/idp/ott/login"
JOHN = "johncustomer@mysite.com"
XFCC = "x-forwarded-client-cert"
ADMIN = f"URI={conftest.TRUST_DOMAIN}/ns/web/sa/admin"

pytestmark = pytest.mark.usefixtures("stubs")

both_ways = pytest.mark.parametrize("envoy", ["SANITIZE_SET", "APPEND_FORWARD"])


@pytest.fixture
def call(mesh):
    """Makes one call and returns the response or the error."""
    from ott.v1 import ott_service_pb2 as ott
    from ott.v1 import ott_service_pb2_grpc as ott_grpc

    def call(to, identity, metadata=(), timeout=20, **fields):
        with mesh.channel(to, identity) as channel:
            service = ott_grpc.OttServiceStub(channel)
            try:
                if "ott" in fields:
                    request = ott.LoginWithOttRequest(**fields)
                    return service.LoginWithOtt(request, timeout=timeout, metadata=metadata)
                request = ott.IssueOttRequest(**fields)
                return service.IssueOtt(request, timeout=timeout, metadata=metadata)
            except grpc.RpcError as error:
                return error

    return call


def reason(error):
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(info):
            return f"{error.code().name} {info.reason}"
    return error.code().name


def settled(count):
    """Returns the count after the time within which a retry would arrive."""
    time.sleep(1)
    return count()


def metric(mesh, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{mesh.ports['admin']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


@both_ways
def test_the_client_behind_envoy_is_the_caller(mesh, call, envoy):
    issued = call(envoy, "portal", login=JOHN)
    assert issued.ott.startswith("SANDBOX-"), issued
    logged_in = call(envoy, "portal", ott=issued.ott)
    assert logged_in.user.login == JOHN
    issue, login = mesh.audit()[-2:]
    for record in issue, login:
        assert (record["caller"], record["caller_proof"]) == (conftest.PORTAL, "forwarded")
    assert issue["ott_fingerprint"] == login["ott_fingerprint"]


@both_ways
def test_a_header_forged_through_envoy_does_not_change_the_caller(mesh, call, envoy):
    forgeries = [ADMIN, f'By="x";{ADMIN}', f'{ADMIN};Subject="', f"{ADMIN},{ADMIN}", 'Hash="', "URI=", ""]
    for forged in forgeries:
        answer = call(envoy, "stranger", metadata=[(XFCC, forged)], login=JOHN)
        assert isinstance(answer, grpc.RpcError), f"{forged}: {answer}"
        record = mesh.audit()[-1]
        if record["caller"] is None:
            # Envoy appends to a malformed header, which identifies no caller.
            assert reason(answer) == "UNAUTHENTICATED CALLER_UNAUTHENTICATED"
            assert envoy == "APPEND_FORWARD"
        else:
            assert reason(answer) == "PERMISSION_DENIED CALLER_NOT_ALLOWED"
            assert (record["caller"], record["caller_proof"]) == (conftest.STRANGER, "forwarded"), forged
        assert record["attempts"] == 0
    twice = [(XFCC, ADMIN), (XFCC, ADMIN)]
    assert isinstance(call(envoy, "stranger", metadata=twice, login=JOHN), grpc.RpcError)
    assert mesh.audit()[-1]["caller"] in (None, conftest.STRANGER)


def test_a_header_forged_past_envoy_is_ignored_in_favor_of_the_certificate(mesh, call):
    counted = metric(mesh, "ott_gateway_spoofed_identity_headers_total")
    answer = call("gateway", "stranger", metadata=[(XFCC, ADMIN)], login=JOHN)
    assert reason(answer) == "PERMISSION_DENIED CALLER_NOT_ALLOWED"
    record = mesh.audit()[-1]
    assert (record["caller"], record["caller_proof"]) == (conftest.STRANGER, "certificate")
    assert metric(mesh, "ott_gateway_spoofed_identity_headers_total") == counted + 1


@pytest.mark.parametrize("to", ["SANITIZE_SET", "gateway"])
def test_clients_without_a_certificate_are_refused(mesh, call, to):
    before = len(mesh.audit())
    assert call(to, None, timeout=5, login=JOHN).code() == grpc.StatusCode.UNAVAILABLE
    assert len(mesh.audit()) == before, "no call was made"


def test_envoy_retries_safe_failures(mesh, call):
    """Otherwise the tests below would prove nothing."""
    before = len(mesh.audit())
    answer = call("SANITIZE_SET", "portal", login="fault+503@sandbox")
    assert reason(answer) == "UNAVAILABLE PLATFORM_UNAVAILABLE"
    records = mesh.audit()[before:]
    assert [record["code"] for record in records] == ["UNAVAILABLE"] * 3, "one call and two retries"


@pytest.mark.parametrize("fault", ["500", "502", "503", "504", "reset", "cut", "malformed", "html", "429"])
def test_envoy_never_sends_a_login_twice(mesh, call, fault):
    issued = call("SANITIZE_SET", "portal", login=f"login-fault+{fault}@sandbox")
    assert issued.ott, issued
    before, recorded = mesh.platform_requests(LOGIN), len(mesh.audit())
    answer = call("SANITIZE_SET", "portal", ott=issued.ott)
    assert answer.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), reason(answer)
    assert settled(lambda: mesh.platform_requests(LOGIN)) == before + 1
    assert len(mesh.audit()) == recorded + 1, "Envoy sent one call"


def test_a_login_after_its_deadline_is_not_sent_twice(mesh, call):
    issued = call("SANITIZE_SET", "portal", login="login-fault+slow@sandbox")
    before, recorded = mesh.platform_requests(LOGIN), len(mesh.audit())
    answer = call("SANITIZE_SET", "portal", timeout=1, ott=issued.ott)
    assert answer.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    mesh.until(lambda: len(mesh.audit()) > recorded, "the record of the login")
    assert mesh.audit()[-1]["outcome"] in ("done", "unknown")
    mesh.until(lambda: mesh.platform_requests(LOGIN) > before, "the platform's response")
    assert settled(lambda: mesh.platform_requests(LOGIN)) == before + 1
