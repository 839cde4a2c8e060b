"""Server streams that are followed over broken connections, and calls that are tried again."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

import penstock
from penstock.events.v1 import events_pb2
from penstock.events.v1 import events_service_pb2 as pb
from tests.client.model_server import METHODS, status

Answer = Callable[[Any, Any], Any]


class Script:
    """A server that answers its calls, one after the other, as told; keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Any] = []

    async def tail(self, request: pb.TailEventsRequest, context: Any) -> AsyncIterator[pb.TailEventsResponse]:
        """TailEvents."""
        self.requests.append(request)
        async for frame in self.answers.pop(0)(request, context):
            yield frame

    async def count(self, request: pb.CountEventsRequest, context: Any) -> pb.CountEventsResponse:
        """CountEvents."""
        self.requests.append(request)
        answer: pb.CountEventsResponse = await self.answers.pop(0)(request, context)
        return answer


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """The script; `target` is where its server is."""
    made, server = Script(), grpc.aio.server()
    handlers = {
        "TailEvents": grpc.unary_stream_rpc_method_handler(
            made.tail, pb.TailEventsRequest.FromString, pb.TailEventsResponse.SerializeToString
        ),
        "CountEvents": grpc.unary_unary_rpc_method_handler(
            made.count, pb.CountEventsRequest.FromString, pb.CountEventsResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(METHODS, handlers)])
    made.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"  # type: ignore[attr-defined]
    await server.start()
    yield made
    await server.stop(None)


@pytest.fixture
async def client(script: Script) -> AsyncIterator[penstock.Client]:
    """A client of it."""
    async with penstock.Client(script.target, timeout_s=2, retry_total_s=2) as opened:  # type: ignore[attr-defined]
        yield opened


def frames(first: int, last: int, *ending: Any) -> Answer:
    """Events numbered first to last, exclusive, each with its token; then a last frame, or the breaking code."""

    async def answer(request: Any, context: Any) -> AsyncIterator[pb.TailEventsResponse]:
        for n in range(first, last):
            event = events_pb2.StoredEvent(offset=n)
            yield pb.TailEventsResponse(event=event, resume_token=f"t{n}")
        for end in ending:
            if isinstance(end, grpc.StatusCode):
                await context.abort(end, "broken")
            yield end

    return answer


def failing(code: grpc.StatusCode) -> Answer:
    """A unary call that fails."""

    async def answer(request: Any, context: Any) -> None:
        await context.abort(code, "broken")

    return answer


async def counted(request: Any, context: Any) -> pb.CountEventsResponse:
    """A count that works."""
    return pb.CountEventsResponse(total=3)


async def test_a_tail_resumes_where_it_was(client: penstock.Client, script: Script) -> None:
    """After a broken connection, after the server's end, after a passing error in a frame: each event once."""
    passing = pb.TailEventsResponse(error=status(code_pb2.UNAVAILABLE, "STORAGE_UNAVAILABLE", 0.01))
    heartbeat = pb.TailEventsResponse(heartbeat=pb.TailHeartbeat(commit=1), resume_token="t6")
    script.answers = [
        frames(0, 3, grpc.StatusCode.UNAVAILABLE),
        frames(3, 5, pb.TailEventsResponse(end=pb.TailEnd())),
        frames(5, 6, heartbeat, passing),
        frames(6, 9),
    ]
    tail = client.events.tail("start")
    seen = []
    async for event in tail:
        seen.append(event.offset)
        if len(seen) == 9:
            break
    assert seen == list(range(9))
    assert [request.resume_token for request in script.requests] == ["start", "t2", "t4", "t6"]
    assert tail.resume_token == "t8"
    await tail.aclose()


async def test_an_error_that_stays_is_raised(client: penstock.Client, script: Script) -> None:
    """Trying again would not help."""
    expired = pb.TailEventsResponse(error=status(code_pb2.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED"))
    script.answers = [frames(0, 1, expired)]
    with pytest.raises(penstock.ResumeTokenExpired):
        async for _ in client.events.tail("old"):
            pass


async def test_a_server_that_stays_away_is_given_up(script: Script) -> None:
    """After the total bound."""
    script.answers = [frames(0, 0, grpc.StatusCode.UNAVAILABLE)] * 100
    async with penstock.Client(script.target, retry_total_s=0.3) as client:  # type: ignore[attr-defined]
        with pytest.raises(penstock.Unavailable):
            await anext(client.events.tail())


async def test_reads_are_tried_again(client: penstock.Client, script: Script) -> None:
    """While the server is away, but not when the request is wrong."""
    script.answers = [failing(grpc.StatusCode.UNAVAILABLE), counted]
    assert (await client.events.count()).total == 3
    script.answers = [failing(grpc.StatusCode.INVALID_ARGUMENT), counted]
    with pytest.raises(penstock.InvalidRequest):
        await client.events.count()


async def test_a_closed_client_ends_what_follows(script: Script) -> None:
    """With an error that says so."""
    script.answers = [frames(0, 1, pb.TailEventsResponse(end=pb.TailEnd()))]
    client = penstock.Client(script.target)  # type: ignore[attr-defined]
    tail = client.events.tail()
    await anext(tail)
    await client.close()
    with pytest.raises((penstock.Unavailable, RuntimeError)):
        await anext(tail)
