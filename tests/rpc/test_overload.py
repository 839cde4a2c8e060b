"""More calls than can be answered, over a real connection: each gets its answer, or the whole error that says so."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2

from penstock.operations.metrics import RpcMetrics
from penstock.recommendations.v1 import recommendations_service_pb2 as pb
from penstock.recommendations.v1 import recommendations_service_pb2_grpc as stubs
from penstock.rpc.admission import Admission
from penstock.rpc.bind import Edge
from penstock.rpc.call import Call
from penstock.rpc.server import listen, make_server
from tests.rpc.policies import open_policy
from tests.waiting import until

SERVICE = pb.DESCRIPTOR.services_by_name["RecommendationService"]
RECOMMEND = f"/{SERVICE.full_name}/Recommend"
BURST = 2_500
WITHIN_S = 30.0


class Waiting:
    """Answers `Recommend` when it is told to; the area's other rpcs are not called here."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def Recommend(self, request: pb.RecommendRequest, call: Call) -> pb.RecommendResponse:
        await self.go.wait()
        return pb.RecommendResponse()

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name not in SERVICE.methods_by_name:
            raise AttributeError(name)
        return self.Recommend


@asynccontextmanager
async def serving(
    service: Waiting, admission: Admission | None = None, metrics: RpcMetrics | None = None
) -> AsyncIterator[str]:
    """Where it listens."""
    edge = Edge(trusted_proxies=[], policy=open_policy(admission, metrics))
    server = make_server([edge.handlers(SERVICE, service)])
    port = listen(server, "127.0.0.1", 0)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def counted(metrics: RpcMetrics) -> dict[str, float]:
    """Calls that ended, by the name of their status."""
    (requests,) = (family for family in metrics.collect() if family.name == "penstock_rpc_requests")
    return {sample.labels["code"]: sample.value for sample in requests.samples if sample.value}


async def test_a_call_that_is_turned_away_unseen_gets_the_whole_error() -> None:
    service, metrics = Waiting(), RpcMetrics([RECOMMEND])
    now = 0.0
    admission = Admission(1, 10, few=1, patience_s=WITHIN_S, clock=lambda: now)
    async with (
        serving(service, admission, metrics) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        stub = stubs.RecommendationServiceStub(channel)
        request = pb.RecommendRequest()
        served = stub.Recommend(request)
        await until(lambda: admission.load.in_use == 1)
        waits = stub.Recommend(request)
        await until(lambda: admission.load.waiting == 1)
        now = 2 * WITHIN_S  # no burst any more
        refused = stub.Recommend(request, metadata=(("x-request-id", "mine"),))
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(await refused.trailing_metadata())
        assert (trailers["x-request-id"], trailers["retry-after"]) == ("mine", "1")
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        reason, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(reason)
        assert status.details[1].Unpack(retry)
        assert (reason.reason, retry.retry_delay.ToTimedelta().total_seconds()) == ("SERVER_BUSY", 0.5)
        assert status.message == await refused.details()
        assert len(dict(await stub.Recommend(request).trailing_metadata())["x-request-id"]) == 32

        service.go.set()
        await served
        assert await waits.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # it has waited for too long
        await until(lambda: counted(metrics) == {"OK": 1, "RESOURCE_EXHAUSTED": 3})


async def test_calls_that_come_while_the_loop_is_held_up_are_answered() -> None:
    """By default gRPC drops at random what comes beyond 1,000 calls that have not begun."""
    service = Waiting()
    service.go.set()
    async with serving(service) as target:
        with grpc.insecure_channel(target) as channel:
            await asyncio.to_thread(grpc.channel_ready_future(channel).result, WITHIN_S)
            stub = stubs.RecommendationServiceStub(channel)
            calls = [stub.Recommend.future(pb.RecommendRequest()) for _ in range(BURST)]
            time.sleep(1.0)  # noqa: ASYNC251  the loop is held up while they arrive
            ended = await asyncio.to_thread(ends_of, calls)
    assert ended == {grpc.StatusCode.OK: BURST}


def ends_of(calls: Sequence[grpc.Future]) -> Counter[grpc.StatusCode]:
    return Counter(call.code() for call in calls)
