"""Who is refused at the door pays for it, is told all that others are told, and is nobody's caller."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from penstock.access.v1 import access_pb2
from penstock.cache.redis import Redis
from penstock.cache.windows import Windows
from penstock.errors import Unauthenticated
from penstock.operations.performance import Performance
from penstock.recommendations.v1 import recommendations_service_pb2 as pb
from penstock.recommendations.v1 import recommendations_service_pb2_grpc as stubs
from penstock.rpc.access import Access
from penstock.rpc.bind import Edge
from penstock.rpc.call import Call
from penstock.rpc.principal import Kind, Principal, principal
from penstock.rpc.rate_limits import RateLimits
from penstock.rpc.server import listen, make_server
from tests.rpc.policies import policy

SERVICE = pb.DESCRIPTOR.services_by_name["RecommendationService"]
LIMIT = 4
VIEWER = principal(Kind.KEY, "shop", "key", [access_pb2.ROLE_VIEWER])
NOBODY_CAN = principal(Kind.KEY, "shop", "useless", [])

Metadata = tuple[tuple[str, str], ...]
GOOD: Metadata = (("x-api-key", "good"),)
BAD: Metadata = (("x-api-key", "bad"),)
SMALL: Metadata = (("x-api-key", "small"),)


class Keys:
    """Two keys."""

    def known(self, credential: str) -> Principal | None:
        return {"good": VIEWER, "small": NOBODY_CAN}.get(credential)

    def principal_of(self, credential: str) -> Principal:
        raise Unauthenticated("there is no such key", reason="KEY_INVALID")


class Answers:
    """Answers every rpc with nothing."""

    def __getattr__(self, name: str) -> object:
        if name not in SERVICE.methods_by_name:
            raise AttributeError(name)

        async def answer(request: object, call: Call) -> pb.RecommendResponse:
            return pb.RecommendResponse()

        return answer


@dataclass(slots=True)
class Door:
    """A server that requires a credential."""

    stub: stubs.RecommendationServiceStub
    performance: Performance

    async def told(self, metadata: Metadata) -> tuple[grpc.StatusCode, str, dict[str, str]]:
        """How a call ends, why, and what goes along."""
        call = self.stub.Recommend(pb.RecommendRequest(), metadata=metadata)
        code, trailers, reason = await call.code(), dict(await call.trailing_metadata()), ""
        if "grpc-status-details-bin" in trailers:
            info = error_details_pb2.ErrorInfo()
            status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(info)
            reason = info.reason
        return code, reason, trailers


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    performance = Performance()
    rates = RateLimits(Windows(Redis("")), anonymous_limit=LIMIT)
    required = policy(Access(Keys(), required=True), rates, performance=performance)
    server = make_server([Edge(trusted_proxies=[], policy=required).handlers(SERVICE, Answers())])
    port = listen(server, "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Door(stubs.RecommendationServiceStub(channel), performance)
    await server.stop(None)


@pytest.mark.parametrize(("credential", "reason"), [(BAD, "KEY_INVALID"), ((), "CREDENTIAL_MISSING")])
async def test_an_address_may_try_so_many_credentials(door: Door, credential: Metadata, reason: str) -> None:
    for left in reversed(range(LIMIT)):
        code, why, told = await door.told(credential)
        assert (code, why) == (grpc.StatusCode.UNAUTHENTICATED, reason)
        assert (told["ratelimit-limit"], told["ratelimit-remaining"]) == (str(LIMIT), str(left))
    for tried in (BAD, ()):  # from one window, whatever is tried
        code, why, told = await door.told(tried)
        assert (code, why) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert int(told["retry-after"]) > 0
    assert (await door.told(GOOD))[0] is grpc.StatusCode.OK  # who has one is not kept out by them


async def test_a_role_that_does_not_reach_is_paid_for_by_whose_it_is(door: Door) -> None:
    code, why, told = await door.told(SMALL)
    assert (code, why) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
    assert int(told["ratelimit-remaining"]) == int(told["ratelimit-limit"]) - 1 > LIMIT


@pytest.mark.parametrize("credential", [GOOD, BAD, SMALL, ()])
async def test_every_reply_tells_its_request_its_time_and_whether_it_was_kept(door: Door, credential: Metadata) -> None:
    _, _, told = await door.told((*credential, ("x-request-id", "mine")))
    assert (told["x-request-id"], told["x-cache-hit"]) == ("mine", "false")
    assert float(told["x-process-time"].removesuffix("ms")) >= 0


async def test_who_is_not_known_is_in_nobodys_report(door: Door) -> None:
    for credential in (BAD, (), GOOD):
        await door.told(credential)
    assert [operation.count for operation in door.performance.report("shop").operations] == [1]
    assert not door.performance.report("default").operations
    assert not door.performance.report("").operations
