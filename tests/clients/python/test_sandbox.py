"""A typical grpcio client against the sandbox."""

import base64
import http.client
import json
import os
import threading
import time
import urllib.parse

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from conftest import Sandbox

JOHN = "johncustomer@mysite.com"
DEADLINE = 10


def details(error):
    """Returns the typed details of a failed call, by name."""
    status = rpc_status.from_call(error)
    assert status is not None, "every failure carries details"
    found = {}
    for packed in status.details:
        kind = packed.type_url.rsplit(".", 1)[1]
        detail = getattr(error_details_pb2, kind)()
        assert packed.Unpack(detail)
        found[kind] = detail
    assert found["ErrorInfo"].domain == "ott-gateway"
    assert found["RequestInfo"].request_id
    assert status.code == error.code().value[0]
    return found


def failure(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments, timeout=DEADLINE, **options)
    return raised.value, details(raised.value)


def trailers(error):
    return {entry.key: entry.value for entry in error.trailing_metadata()}


@pytest.fixture
def messages(stubs):
    from ott.v1 import ott_service_pb2

    return ott_service_pb2


def test_the_documented_user_logs_in(service, messages):
    before = time.time()
    issued = service.IssueOtt(messages.IssueOttRequest(login=JOHN), timeout=DEADLINE)
    assert issued.ott.startswith("SANDBOX-")
    assert not issued.login_url
    assert before + 29 < issued.expire_time.ToNanoseconds() / 1e9 < time.time() + 31

    answer = service.LoginWithOtt(messages.LoginWithOttRequest(ott=issued.ott), timeout=DEADLINE)
    user = answer.user
    assert user.login == JOHN
    assert user.id == "2955b448-7df8-43uc-9c63-a21511dbe06d"
    assert user.tenant_id == "2de246a4-1t3e-937c-9e76-5a21bd6492b"
    assert user.version == 1
    assert user.HasField("activated") and user.activated is False
    assert not user.HasField("personal_tenant_id"), "null is absent"
    assert user.contact.HasField("city") and user.contact.city == "", "empty is present"
    assert list(user.notifications) == ["quota", "reports", "backup_daily_report"]
    assert user.created_at.ToJsonString() == "2019-08-10T08:00:00.807354Z"
    assert user.additional_fields_json == ""
    assert answer.session.cookies and answer.session.cookie_header


def test_the_session_works_at_the_platform_until_logout(sandbox, service, messages):
    issued = service.IssueOtt(messages.IssueOttRequest(login=JOHN), timeout=DEADLINE)
    answer = service.LoginWithOtt(messages.LoginWithOttRequest(ott=issued.ott), timeout=DEADLINE)
    headers = {"Cookie": answer.session.cookie_header}

    def get(path):
        connection = http.client.HTTPConnection(sandbox.platform, timeout=DEADLINE)
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read()

    status, body = get("/api/2/users/me")
    assert status == 200 and json.loads(body)["login"] == JOHN
    assert get("/api/2/idp/logout")[0] < 300
    assert get("/api/2/users/me")[0] == 401


def test_the_id_of_an_account_works_as_user_id(service, messages):
    by_login = service.IssueOtt(messages.IssueOttRequest(login=JOHN), timeout=DEADLINE)
    user = service.LoginWithOtt(messages.LoginWithOttRequest(ott=by_login.ott), timeout=DEADLINE).user
    by_id = service.IssueOtt(messages.IssueOttRequest(user_id=user.id), timeout=DEADLINE)
    again = service.LoginWithOtt(messages.LoginWithOttRequest(ott=by_id.ott), timeout=DEADLINE).user
    assert again == user


def test_concurrent_logins_have_separate_cookies(service, messages):
    values, lock = [], threading.Lock()

    def log_in():
        issued = service.IssueOtt(messages.IssueOttRequest(login=JOHN), timeout=DEADLINE)
        answer = service.LoginWithOtt(messages.LoginWithOttRequest(ott=issued.ott), timeout=DEADLINE)
        with lock:
            values.append(answer.session.cookie_header)

    threads = [threading.Thread(target=log_in) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(values)) == 20


def test_a_login_url_carries_the_token_in_its_fragment(sandbox, service, messages):
    issued = service.IssueOtt(
        messages.IssueOttRequest(login=JOHN, target_uri="/mc/"), timeout=DEADLINE
    )
    url = urllib.parse.urlsplit(issued.login_url)
    assert (url.scheme, url.netloc, url.path, url.query) == (
        "http",
        sandbox.platform,
        "/api/2/idp/external-login",
        "",
    )
    fragment = urllib.parse.parse_qs(url.fragment)
    assert fragment["ott"] == [issued.ott]
    assert fragment["targetURI"] == [f"http://{sandbox.platform}/mc/"]


@pytest.mark.parametrize(
    "target", ["//evil.example/", "/\\evil.example", "javascript:alert(1)", "https://evil.example/", "/a\tb"]
)
def test_a_login_url_for_another_host_is_refused(service, messages, target):
    error, found = failure(service.IssueOtt, messages.IssueOttRequest(login=JOHN, target_uri=target))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in found["BadRequest"].field_violations] == ["target_uri"]


def test_used_and_unknown_tokens_get_the_same_error(service, messages):
    issued = service.IssueOtt(messages.IssueOttRequest(login=JOHN), timeout=DEADLINE)
    service.LoginWithOtt(messages.LoginWithOttRequest(ott=issued.ott), timeout=DEADLINE)
    answers = []
    for token in (issued.ott, "SANDBOX-never-issued"):
        error, found = failure(service.LoginWithOtt, messages.LoginWithOttRequest(ott=token))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert found["ErrorInfo"].reason == "OTT_REJECTED"
        assert not {"httpStatus", "apiCode", "apiMessage"} & set(found["ErrorInfo"].metadata)
        answers.append((error.details(), found["ErrorInfo"], trailers(error).get("grpc-retry-pushback-ms")))
    assert answers[0] == answers[1]
    assert answers[0][2] == "-1"


@pytest.mark.parametrize(
    ("request_fields", "fields"),
    [
        ({}, {"subject"}),
        ({"login": ""}, {"login"}),
        ({"login": "a\nb"}, {"login"}),
        ({"external_id": "x" * 255}, {"external_id"}),
        ({"login": "a", "purpose": 7}, {"purpose"}),
    ],
)
def test_an_invalid_request_reports_its_fields(service, messages, request_fields, fields):
    error, found = failure(service.IssueOtt, messages.IssueOttRequest(**request_fields))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert found["ErrorInfo"].reason == "INVALID_REQUEST"
    assert {violation.field for violation in found["BadRequest"].field_violations} == fields
    for violation in found["BadRequest"].field_violations:
        assert f"{violation.field}: {violation.description}" in error.details()


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("400-1018", "FAILED_PRECONDITION", "USER_DISABLED"),
        ("400-1003", "FAILED_PRECONDITION", "TENANT_DISABLED"),
        ("400-1012", "FAILED_PRECONDITION", "TENANT_LOCKED"),
        ("404-1005", "NOT_FOUND", "TENANT_NOT_FOUND"),
        ("400-1033", "INVALID_ARGUMENT", "INVALID_LOGIN"),
        ("400", "INVALID_ARGUMENT", "PLATFORM_REJECTED_REQUEST"),
        ("403", "PERMISSION_DENIED", "PLATFORM_ACCESS_DENIED"),
        ("404", "NOT_FOUND", "USER_NOT_FOUND"),
        ("409", "ABORTED", "PLATFORM_CONFLICT"),
        ("415", "INTERNAL", "PLATFORM_PROTOCOL_ERROR"),
        ("redirect", "INTERNAL", "PLATFORM_PROTOCOL_ERROR"),
        ("html", "INTERNAL", "PLATFORM_PROTOCOL_ERROR"),
        ("malformed", "INTERNAL", "PLATFORM_PROTOCOL_ERROR"),
        ("huge", "INTERNAL", "PLATFORM_PROTOCOL_ERROR"),
        ("503", "UNAVAILABLE", "PLATFORM_UNAVAILABLE"),
        ("reset", "UNAVAILABLE", "PLATFORM_UNAVAILABLE"),
        ("cut", "UNAVAILABLE", "PLATFORM_UNAVAILABLE"),
        ("429", "RESOURCE_EXHAUSTED", "PLATFORM_RATE_LIMITED"),
    ],
)
def test_every_fault_at_issuing_has_its_status(service, messages, kind, code, reason):
    error, found = failure(
        service.IssueOtt, messages.IssueOttRequest(login=f"fault+{kind}@sandbox")
    )
    assert (error.code().name, found["ErrorInfo"].reason) == (code, reason)
    if kind == "429":
        assert 6 <= found["RetryInfo"].retry_delay.seconds <= 8
    # The same gateway continues to work.
    assert service.IssueOtt(messages.IssueOttRequest(login=JOHN), timeout=DEADLINE).ott


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("400-1018", "FAILED_PRECONDITION", "USER_DISABLED"),
        ("400", "UNAUTHENTICATED", "OTT_REJECTED"),
        ("404", "UNAUTHENTICATED", "OTT_REJECTED"),
        ("410", "UNAUTHENTICATED", "OTT_REJECTED"),
        ("403", "PERMISSION_DENIED", "PLATFORM_ACCESS_DENIED"),
        ("503", "ABORTED", "LOGIN_OUTCOME_UNKNOWN"),
        ("reset", "ABORTED", "LOGIN_OUTCOME_UNKNOWN"),
        ("cut", "ABORTED", "LOGIN_OUTCOME_UNKNOWN"),
        ("malformed", "INTERNAL", "PLATFORM_PROTOCOL_ERROR"),
        ("html", "INTERNAL", "PLATFORM_PROTOCOL_ERROR"),
        ("429", "RESOURCE_EXHAUSTED", "PLATFORM_RATE_LIMITED"),
    ],
)
def test_every_fault_at_login_has_its_status(service, messages, kind, code, reason):
    issued = service.IssueOtt(
        messages.IssueOttRequest(login=f"login-fault+{kind}@sandbox"), timeout=DEADLINE
    )
    error, found = failure(service.LoginWithOtt, messages.LoginWithOttRequest(ott=issued.ott))
    assert (error.code().name, found["ErrorInfo"].reason) == (code, reason)
    if code == "ABORTED":
        assert trailers(error)["grpc-retry-pushback-ms"] == "-1"
        assert trailers(error)["x-envoy-ratelimited"] == "true"


def test_the_deadline_of_the_caller_applies(service, messages):
    with pytest.raises(grpc.RpcError) as raised:
        service.IssueOtt(messages.IssueOttRequest(login="fault+slow@sandbox"), timeout=0.5)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_unknown_api_client_is_reported(service, messages):
    error, found = failure(
        service.IssueOtt, messages.IssueOttRequest(login=JOHN, api_client="nowhere")
    )
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert found["ErrorInfo"].reason == "API_CLIENT_UNKNOWN"


def test_errors_of_the_grpc_server_have_details(channel):
    unknown = channel.unary_unary("/ott.v1.OttService/Nothing", lambda raw: raw, lambda raw: raw)
    error, found = failure(unknown, b"")
    assert (error.code().name, found["ErrorInfo"].reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")

    raw = channel.unary_unary("/ott.v1.OttService/IssueOtt", lambda raw: raw, lambda raw: raw)
    error, found = failure(raw, b"\xff\xff\xff")
    assert (error.code().name, found["ErrorInfo"].reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    error, found = failure(raw, b"\x0a\x03" + b"\xff\xfe\xfd")
    assert (error.code().name, found["ErrorInfo"].reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    error, found = failure(raw, b"\x0a" + b"\x00" * 20_000)
    assert (error.code().name, found["ErrorInfo"].reason) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE")


def test_health_and_reflection_work_with_their_standard_clients(channel):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "ott.v1.OttService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service="unknown"), timeout=DEADLINE)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()

    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "ott.v1.OttService" in services


SEALING = """
[server]
listen = "127.0.0.1:50051"

[token_binding]
keys_file = "token-keys"

[api_clients.sandbox]
data_center_url = "https://eu2-cloud.acronis.com"
client_id = "11111111-2222-3333-4444-555555555555"
client_secret_env = "NOT_READ_BY_THE_SANDBOX"
bind_tokens = "on"

[audit]
sink = "off"

[[access.rules]]
callers = ["anonymous"]
logins = ["*@mysite.com"]
"""


def test_client_needs_no_change_for_sealed_tokens(request, tmp_path, stubs, messages):
    from ott.v1 import ott_service_pb2_grpc

    keys = tmp_path / "token-keys"
    keys.write_text(f"test {base64.b64encode(os.urandom(32)).decode()}\n")
    keys.chmod(0o600)
    (tmp_path / "gateway.toml").write_text(SEALING)
    binary = request.config.getoption("--gateway")
    running = Sandbox(binary, "--config", str(tmp_path / "gateway.toml")).ready()
    with grpc.insecure_channel(running.gateway) as channel:
        service = ott_service_pb2_grpc.OttServiceStub(channel)
        issued = service.IssueOtt(messages.IssueOttRequest(login=JOHN), timeout=DEADLINE)
        assert issued.ott.startswith("ottgw1.test.")
        answer = service.LoginWithOtt(messages.LoginWithOttRequest(ott=issued.ott), timeout=DEADLINE)
        assert answer.user.login == JOHN
        assert answer.session.cookie_header

        error, found = failure(service.LoginWithOtt, messages.LoginWithOttRequest(ott=issued.ott))
        assert found["ErrorInfo"].reason == "OTT_REJECTED"

        with_url = messages.IssueOttRequest(login=JOHN, target_uri="/mc/")
        issued = service.IssueOtt(with_url, timeout=DEADLINE)
        assert not issued.ott
        raw = urllib.parse.parse_qs(urllib.parse.urlsplit(issued.login_url).fragment)["ott"][0]
        assert raw.startswith("SANDBOX-")
        error, found = failure(service.LoginWithOtt, messages.LoginWithOttRequest(ott=raw))
        assert found["ErrorInfo"].reason == "OTT_REJECTED"
    code, _, output = running.stop()
    assert code == 0, output
