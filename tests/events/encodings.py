"""Requests that Python's parser of protobuf takes, in encodings that no library writes."""

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb

GOOD = ev.Event(event_type="purchase", user_id="user").SerializeToString()
_EVENTS = ev.Event.DESCRIPTOR.fields
_ROWS = pb.AppendRequest.DESCRIPTOR.fields_by_name["event_rows"].number
_STAMPS = range(1_000, 1_007)
_VARINT, _FIXED64, _BYTES, _GROUP, _END, _FIXED32 = range(6)


def varint(value: int, width: int = 1) -> bytes:
    """A varint of at least so many bytes."""
    made = b""
    while value > 0x7F or len(made) + 1 < width:
        made += bytes([value & 0x7F | 0x80])
        value >>= 7
    return made + bytes([value])


def tag(number: int, kind: int, width: int = 1) -> bytes:
    return varint(number << 3 | kind, width)


def text(number: int, data: bytes, width: int = 1) -> bytes:
    """A field with its length before it."""
    return tag(number, _BYTES, width) + varint(len(data)) + data


def request(*events: bytes, behind: bytes = b"") -> bytes:
    """A request with these events, and something behind them."""
    return text(_ROWS, b"".join(text(1, event) for event in events)) + behind


def wrong_kinds() -> Iterator[tuple[str, bytes]]:
    """Every field of an event with every kind of value, by name."""
    for field in _EVENTS:
        for name, value in (
            ("varint", tag(field.number, _VARINT) + varint(5)),
            ("fixed64", tag(field.number, _FIXED64) + bytes(8)),
            ("text", text(field.number, b"abc")),
            ("group", tag(field.number, _GROUP) + tag(1, _VARINT) + b"\1" + tag(field.number, _END)),
            ("fixed32", tag(field.number, _FIXED32) + bytes(4)),
            ("2^40", tag(field.number, _VARINT) + varint(2**40)),
            ("-1", tag(field.number, _VARINT) + varint(2**64 - 1)),
        ):
            made = request(GOOD + value)
            if rows(made):
                yield f"{field.name}, {name}", made


def rows(raw: bytes) -> int:
    """How many rows Python finds; 0 where it takes the request for none."""
    try:
        found = pb.AppendRequest.FromString(raw)
    except DecodeError:
        return 0
    return len(found.event_rows.events) if found.WhichOneof("rows") == "event_rows" else 0


def _field(number: int, kind: int, width: int, value: int, data: bytes) -> bytes:
    match kind:
        case 0:
            return tag(number, kind, width) + varint(value, width)
        case 1:
            return tag(number, kind, width) + (data + bytes(8))[:8]
        case 2:
            return text(number, data, width)
        case 3:
            return tag(number, kind, width) + tag(number % 7 + 1, 0) + varint(value) + tag(number, 4, width)
    return tag(number, 5, width) + (data + bytes(4))[:4]


_FOREIGN = [*_STAMPS, 99]
_DATA = st.binary(max_size=12) | st.sampled_from([b"", b"victim", text(1, b"k"), text(2, b"v"), tag(1, 0) + b"\5"])


def _fields(numbers: list[int]) -> st.SearchStrategy[bytes]:
    one = st.builds(
        _field,
        st.sampled_from(numbers),
        st.sampled_from([0, 1, 2, 3, 5]),
        st.sampled_from([1, 1, 2, 5]),
        st.sampled_from([0, 1, 7, 2**31, 2**40, 2**63, 2**64 - 1]),
        _DATA,
    )
    return st.lists(one, max_size=3).map(b"".join)


_INNER = _fields([*(field.number for field in _EVENTS), *_FOREIGN])
_HOSTILE_EVENTS = st.builds(lambda before, after: before + GOOD + after, _INNER, _INNER)
# Hostile requests of one or two rows, with fields of their own behind the rows, or the rows twice.
HOSTILE = st.builds(
    lambda events, behind, twice: request(*events, behind=behind) * (1 + twice),
    st.lists(_HOSTILE_EVENTS, min_size=1, max_size=2),
    _fields(_FOREIGN),
    st.booleans(),
).filter(rows)
