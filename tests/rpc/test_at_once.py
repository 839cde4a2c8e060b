"""What is in memory is answered at once, to whom it may be answered, and counted; all else goes the other way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from penstock.access.v1 import access_pb2
from penstock.cache.redis import Redis
from penstock.cache.tally import Tallies
from penstock.cache.windows import Windows
from penstock.errors import Unauthenticated
from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.operations.metrics import RpcMetrics
from penstock.operations.performance import Performance
from penstock.operations.slow_calls import SlowCalls
from penstock.operations.watch import CallWatch
from penstock.rpc.access import Access
from penstock.rpc.at_once import ASKED_MAX, InMemory
from penstock.rpc.bind import Edge
from penstock.rpc.call import Call
from penstock.rpc.principal import Kind, Principal, principal
from penstock.rpc.rate_limits import RateLimits
from penstock.rpc.server import listen, make_server
from penstock.rpc.tags import Tags
from tests.rest.stand_in import StandIn
from tests.rpc.policies import nothing_to_learn, policy
from tests.waiting import until

SERVICE = pb.DESCRIPTOR.services_by_name["KpiService"]
METHOD = "/penstock.kpis.v1.KpiService/GetMetrics"
LIMIT = 5  # of a key
KEYS = {
    "good": principal(Kind.KEY, "shop", "key", [access_pb2.ROLE_VIEWER]),
    "other": principal(Kind.KEY, "other", "key", [access_pb2.ROLE_VIEWER]),
    "small": principal(Kind.KEY, "shop", "useless", []),
}
SITE = pb.GetMetricsRequest(site_id="a")


class Keys:
    """Some keys; which hold can change."""

    def __init__(self) -> None:
        self.holding = dict(KEYS)

    def known(self, credential: str) -> Principal | None:
        return self.holding.get(credential)

    def principal_of(self, credential: str) -> Principal:
        raise Unauthenticated("there is no such key", reason="KEY_INVALID")


class Answers(StandIn):
    """Has answers in memory, by tenant and site, and counts how it was asked."""

    def __init__(self) -> None:
        super().__init__(SERVICE)
        self.memory: dict[tuple[str, str], str] = {}
        self.read = 0  # requests
        self.computed = 0
        self.at_once = {"GetMetrics": InMemory(self._asked, self._in_memory)}

    async def GetMetrics(self, request: pb.GetMetricsRequest, call: Call) -> pb.GetMetricsResponse:
        self.computed += 1
        return pb.GetMetricsResponse(reason=f"computed for {call.tenant}")

    def _asked(self, tenant: str, request: pb.GetMetricsRequest) -> tuple[str, str] | None:
        self.read += 1
        return None if request.as_of_version else (tenant, request.site_id)

    def _in_memory(self, asked: tuple[str, str]) -> bytes | None:
        reason = self.memory.get(asked)
        return None if reason is None else pb.GetMetricsResponse(reason=reason).SerializeToString()


@dataclass(slots=True)
class Told:
    """How a call ended."""

    status: grpc.StatusCode
    why: str  # what the answer says, or the reason of the error
    trailers: dict[str, str]
    headers: dict[str, str]


@dataclass(slots=True)
class Serving:
    """A server that requires a credential."""

    channel: grpc.aio.Channel
    answers: Answers
    keys: Keys
    watch: CallWatch
    performance: Performance
    metrics: RpcMetrics
    tallies: Tallies
    versions: dict[str, str]  # of what a tenant's answers depend on

    async def told(self, key: str, request: pb.GetMetricsRequest | bytes = SITE, **metadata: str) -> Told:
        """Calls GetMetrics."""
        body = request if isinstance(request, bytes) else request.SerializeToString()
        sent = [("x-api-key", key), *((name.replace("_", "-"), value) for name, value in metadata.items())]
        call = self.channel.unary_unary(METHOD)(body, metadata=sent)
        headers, status = dict(await call.initial_metadata()), await call.code()
        trailers = dict(await call.trailing_metadata())
        if status is grpc.StatusCode.OK:
            return Told(status, pb.GetMetricsResponse.FromString(await call).reason, trailers, headers)
        info = error_details_pb2.ErrorInfo()
        status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(info)
        return Told(status, info.reason, trailers, headers)


class Traced(CallWatch):
    """Must see each call as it begins."""

    @property
    def traces(self) -> bool:
        return True


@asynccontextmanager
async def serving(watching: type[CallWatch] = CallWatch) -> AsyncIterator[Serving]:
    performance, metrics, tallies, keys = Performance(), RpcMetrics([METHOD]), Tallies(), Keys()
    rates = RateLimits(Windows(Redis("")), key_limit=LIMIT)
    watch = watching(metrics, performance, SlowCalls(), tallies, None)
    versions = {"shop": "one"}
    tags = Tags("test", {access_pb2.CACHEABILITY_UNTIL_GOLD: versions.get}, nothing_to_learn)
    rules = replace(policy(Access(keys, required=True), rates), watcher=watch, tags=tags)
    answers = Answers()
    server = make_server([Edge(trusted_proxies=[], policy=rules).handlers(SERVICE, answers)])
    port = listen(server, "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Serving(channel, answers, keys, watch, performance, metrics, tallies, versions)
    await server.stop(None)


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """One with an answer in memory."""
    async with serving() as made:
        made.answers.memory["shop", "a"] = "remembered"
        yield made


async def test_what_is_in_memory_is_told_without_the_rpc(server: Serving) -> None:
    first, second = await server.told("good"), await server.told("good", x_request_id="mine")
    assert (first.status, first.why, second.why) == (grpc.StatusCode.OK, "remembered", "remembered")
    assert server.answers.computed == 0
    assert server.answers.read == 1, "the same bytes are read once"
    assert first.trailers["x-request-id"] != second.trailers["x-request-id"] == "mine"
    assert {each.trailers["x-cache-hit"] for each in (first, second)} == {"true"}
    assert float(first.trailers["x-process-time"].removesuffix("ms")) >= 0


async def test_what_is_not_goes_the_other_way(server: Serving) -> None:
    for request in (pb.GetMetricsRequest(site_id="b"), pb.GetMetricsRequest(site_id="a", as_of_version=1)):
        told = await server.told("good", request)
        assert (told.why, told.trailers["x-cache-hit"]) == ("computed for shop", "false")
    del server.answers.memory["shop", "a"]
    assert (await server.told("good")).why == "computed for shop"
    server.answers.memory["shop", "a"] = "another"
    assert (await server.told("good")).why == "another"


async def test_a_tenant_is_told_its_own(server: Serving) -> None:
    assert (await server.told("good")).why == "remembered"
    assert (await server.told("other")).why == "computed for other"
    server.answers.memory["other", "a"] = "of the other"
    assert [(await server.told(key)).why for key in ("other", "good")] == ["of the other", "remembered"]


async def test_who_may_not_call_is_refused_whatever_is_in_memory(server: Serving) -> None:
    assert (await server.told("good")).why == "remembered"
    assert (await server.told("bad")).why == "KEY_INVALID"
    assert (await server.told("small")).why == "ROLE_MISSING"
    del server.keys.holding["good"]
    assert (await server.told("good")).why == "KEY_INVALID"


async def test_a_request_that_cannot_be_read_is_refused(server: Serving) -> None:
    told = await server.told("good", b"\xff\xff\xff")
    assert (told.status, told.why) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    long = await server.told("good", pb.GetMetricsRequest(site_id="a" * 10_000))
    assert (long.status, long.why) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_each_call_is_paid_for_once(server: Serving) -> None:
    for left in reversed(range(LIMIT)):
        told = await server.told("good")
        assert (told.why, told.trailers["ratelimit-remaining"]) == ("remembered", str(left))
    refused = await server.told("good")
    assert (refused.status, refused.why) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert (await server.told("other")).status is grpc.StatusCode.OK


async def test_where_it_matters_what_the_client_has_it_goes_the_other_way(server: Serving) -> None:
    assert (await server.told("good", if_none_match='W/"any"')).why == "computed for shop"


async def test_rest_is_told_by_headers_and_gets_a_tag(server: Serving) -> None:
    told = await server.told("good", x_forwarded_for="192.0.2.1")
    assert (told.why, told.trailers) == ("remembered", {})
    assert told.headers["x-cache-hit"] == "true"
    assert told.headers["ratelimit-remaining"] == str(LIMIT - 1)
    server.answers.memory.clear()  # the tag is that of the other way
    again = await server.told("good", x_forwarded_for="192.0.2.1")
    assert (again.why, again.headers["x-cache-hit"]) == ("computed for shop", "false")
    assert told.headers["etag"].partition("-")[0] == again.headers["etag"].partition("-")[0]
    server.versions.clear()  # of what it depends on nothing is known
    server.answers.memory["shop", "a"] = "remembered"
    assert (await server.told("good", x_forwarded_for="192.0.2.1")).why == "computed for shop"


async def test_it_is_counted_before_anybody_asks_for_the_count(server: Serving) -> None:
    for _ in range(3):
        await server.told("good")
    await server.told("other")  # the other way, like a call that asks for the count
    (figures,) = server.performance.report("shop").operations
    assert (figures.count, figures.cache_hit_rate, figures.error_rate) == (3, 1.0, 0)
    assert server.tallies.stats("shop")["kpis"].local_hits == 3
    assert server.tallies.stats("shop")["kpis"].get_us_mean > 0
    assert "kpis" not in server.tallies.stats("other")


async def test_it_is_counted_soon_where_nobody_asks(server: Serving) -> None:
    await server.told("good")
    await until(lambda: bool(server.performance.report("shop").operations))
    (requests,) = (each for each in server.metrics.collect() if each.name == "penstock_rpc_requests")
    assert [each.value for each in requests.samples if each.labels == {"method": METHOD, "code": "OK"}] == [1]
    (in_flight,) = (each for each in server.metrics.collect() if each.name == "penstock_rpc_in_flight")
    assert {each.value for each in in_flight.samples} == {0}


async def test_no_more_questions_are_remembered_than_there_is_room_for(server: Serving) -> None:
    server.keys.holding["many"] = principal(Kind.OPEN, "shop", "", [access_pb2.ROLE_VIEWER])
    for number in range(ASKED_MAX + 1):
        await server.told("many", pb.GetMetricsRequest(site_id=f"{number}"))
    before = server.answers.read
    await server.told("many", pb.GetMetricsRequest(site_id=f"{ASKED_MAX}"))
    assert server.answers.read == before
    await server.told("many", pb.GetMetricsRequest(site_id="0"))
    assert server.answers.read == before + 1


async def test_who_traces_sees_every_call_begin() -> None:
    async with serving(Traced) as server:
        server.answers.memory["shop", "a"] = "remembered"
        assert (await server.told("good")).why == "computed for shop"
