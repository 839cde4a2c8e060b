"""The outbox against every order of faults: what was sent is stored once, in order, whatever the server does."""

from collections import deque
from itertools import count

from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events.v1 import events_pb2
from penstock.events.v1 import events_service_pb2 as pb
from penstock_client.batch import Batch, MessageRows
from penstock_client.errors import from_status
from penstock_client.outbox import Flow, Outbox, Sent
from tests.client.model_server import status

BAD = b"bad"


class Server:
    """The contract for one named stream, over values."""

    def __init__(self) -> None:
        self.log: list[bytes] = []

    def answer(self, sent: Sent, fault: str) -> pb.AppendResponse:
        """What a server says to a batch."""
        assert sent.offset is not None
        rows, expected = list(sent.batch.rows.rows), len(self.log)  # type: ignore[attr-defined]
        if fault == "overloaded":
            return _error(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", expected)
        if sent.offset > expected:
            return _error(code_pb2.OUT_OF_RANGE, "OFFSET_GAP", expected)
        if sent.offset + len(rows) <= expected:
            return _error(code_pb2.ALREADY_EXISTS, "OFFSET_ALREADY_STORED", expected)
        if sent.offset < expected:
            return _error(code_pb2.OUT_OF_RANGE, "OFFSET_OVERLAP", expected)
        if BAD in rows:
            return _error(code_pb2.INVALID_ARGUMENT, "ROWS_REJECTED", expected)
        self.log += rows[: len(rows) // 2] if fault == "half" else rows
        if fault in ("half", "doubtful"):
            return _error(code_pb2.UNAVAILABLE, "STORAGE_UNAVAILABLE", None)
        return pb.AppendResponse(append_result=pb.AppendResult(offset=sent.offset, accepted_rows=len(rows)))


def _error(code: int, reason: str, expected: int | None) -> pb.AppendResponse:
    return pb.AppendResponse(error=pb.AppendError(status=status(code, reason), expected_offset=expected))


def _settle(outbox: Outbox, response: pb.AppendResponse) -> list[bytes]:
    """Feeds an answer in; the rows that it settles without storing them."""
    if response.HasField("append_result"):
        list(outbox.stored(response.append_result))
        return []
    error = from_status(response.error.status)
    settled = list(outbox.refused(response.error, error))
    return [row for each in settled if each.error for row in each.batch.rows.rows]  # type: ignore[attr-defined]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6), st.booleans()),
        st.tuples(st.just("send"), st.integers(1, 4)),
        st.tuples(st.just("answer"), st.sampled_from(["", "", "", "overloaded", "half", "doubtful"])),
        st.tuples(st.just("break"), st.integers(0, 3), st.sampled_from(["", "half"])),
        st.tuples(st.just("flow"), st.integers(1, 5), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(_STEPS)
@settings(max_examples=150)
def test_each_row_is_stored_once_and_in_order(steps: list[tuple[object, ...]]) -> None:
    """Adds, sends, answers, breaks of the connection and changes of flow control in any order."""
    server, outbox, numbers, sequence = Server(), Outbox(named=True), count(), count()
    wire: deque[Sent] = deque()
    given_rows: list[bytes] = []
    refused: list[bytes] = []
    list(outbox.opened(0))

    def deliver(fault: str) -> None:
        if wire:
            refused.extend(_settle(outbox, server.answer(wire.popleft(), fault)))

    def send() -> None:
        if outbox.sendable:
            wire.append(outbox.take(0.0))

    for step in steps:
        match step:
            case ("add", int(rows), bool(bad)):
                added = [b"%d" % next(numbers) for _ in range(rows)] + ([BAD] if bad else [])
                given_rows += added
                outbox.add(Batch(next(sequence), MessageRows.of(added)))
            case ("send", int(times)):
                for _ in range(times):
                    send()
            case ("answer", str(fault)):
                deliver(fault)
            case ("break", int(arrived), str(fault)):
                for _ in range(min(arrived, len(wire))):
                    server.answer(wire.popleft(), fault)
                wire.clear()
                outbox.disconnected()
                list(outbox.opened(len(server.log)))
            case ("flow", int(requests), int(rows)):
                outbox.flow = Flow(requests=requests, request_rows=rows)
    for _ in range(10_000):
        if outbox.empty:
            break
        send()
        deliver("")
    assert outbox.empty
    assert server.log == [row for row in given_rows if row not in set(refused)]
    assert outbox.next_offset == len(server.log)


def test_a_request_is_what_the_generated_classes_would_write() -> None:
    """The hand-written framing, read by the generated class; lengths on both sides of each byte of a varint."""
    events = [events_pb2.Event(event_type="t", url="x" * size) for size in (0, 100, 200, 20_000)]
    request = MessageRows.of([event.SerializeToString() for event in events]).request(7)
    assert pb.AppendRequest.FromString(request) == pb.AppendRequest(offset=7, event_rows=pb.EventRows(events=events))
    assert len(request) <= MessageRows.of([event.SerializeToString() for event in events]).size + 24
