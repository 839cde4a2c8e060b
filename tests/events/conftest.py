"""A channel to the module's server, and rows to send."""

from collections.abc import AsyncIterator, Iterable

import grpc
import pytest

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1 import events_service_pb2_grpc as stubs
from tests.process import ServerProcess


@pytest.fixture
async def events(server: ServerProcess) -> AsyncIterator[stubs.EventServiceStub]:
    """A stub of the module's server."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield stubs.EventServiceStub(channel)


def rows(count: int, *, bad: Iterable[int] = (), **fields: object) -> pb.EventRows:
    """`count` good purchases, but for those at `bad`, whose price is not a number."""
    made = pb.EventRows()
    for index in range(count):
        made.events.add(event_type="purchase", user_id=f"user-{index}", price=2.55, **fields)  # type: ignore[arg-type]
    for index in bad:
        made.events[index].price = float("nan")
    return made


async def exchange(stub: stubs.EventServiceStub, *requests: pb.AppendRequest) -> list[pb.AppendResponse]:
    """All frames of a stream to which `requests` are sent at once."""

    async def sending() -> AsyncIterator[pb.AppendRequest]:
        for request in requests:
            yield request

    return [frame async for frame in stub.StreamEvents(sending())]


def summary(frames: Iterable[pb.AppendResponse]) -> list[str]:
    """Each frame in a word: `opened 0`, `stored 0+10`, `OFFSET_GAP 10`, `end 10`."""
    return [_in_a_word(frame) for frame in frames]


def reason(error: pb.AppendError) -> str:
    """The reason of an error frame."""
    from google.rpc import error_details_pb2

    info = error_details_pb2.ErrorInfo()
    assert error.status.details[0].Unpack(info)
    assert info.domain == "penstock"
    return info.reason


def _in_a_word(frame: pb.AppendResponse) -> str:
    match frame.WhichOneof("frame"):
        case "opened":
            return f"opened {frame.opened.next_offset}"
        case "append_result":
            result = frame.append_result
            return f"stored {result.offset}+{result.accepted_rows}" + (
                f" bad {[row.index for row in result.rejected]}" if result.rejected else ""
            )
        case "error":
            return f"{reason(frame.error)} {frame.error.expected_offset}"
        case _:
            return f"end {frame.end.next_offset}"


__all__ = ["ev", "events", "exchange", "pb", "reason", "rows", "summary"]
