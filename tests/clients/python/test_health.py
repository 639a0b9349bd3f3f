"""grpcio's client-side health checking (gRFC A17) at the limit of `Watch` streams."""

import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

JOHN = "johncustomer@mysite.com"
DEADLINE = 10
WATCHES_PER_CONNECTION = 4


def checked_channel(address, service):
    """Returns a channel that sends calls only while `service` is healthy."""
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": service}}
    return grpc.insecure_channel(address, options=[("grpc.service_config", json.dumps(config))])


def issue(channel, deadline):
    from ott.v1 import ott_service_pb2, ott_service_pb2_grpc

    request = ott_service_pb2.IssueOttRequest(login=JOHN)
    return ott_service_pb2_grpc.OttServiceStub(channel).IssueOtt(request, timeout=deadline, wait_for_ready=True)


def failure(call, *arguments):
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments)
    return raised.value.code()


def test_client_with_health_checks_works_beyond_the_watch_limit(sandbox):
    with checked_channel(sandbox.gateway, "no.such.Service") as checked:
        assert failure(issue, checked, 1) == grpc.StatusCode.DEADLINE_EXCEEDED, "the channel checks health"
    # All channels to one address share one connection.
    with grpc.insecure_channel(sandbox.gateway) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(WATCHES_PER_CONNECTION)]
        for watch in watches:
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        refused = stub.Watch(health_pb2.HealthCheckRequest())
        assert failure(next, refused) == grpc.StatusCode.UNIMPLEMENTED
        with checked_channel(sandbox.gateway, "another.Service") as checked:
            assert issue(checked, DEADLINE).ott, "a refused Watch does not mean unhealthy"
        for watch in watches:
            watch.cancel()
