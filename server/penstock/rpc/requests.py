"""Turns the bytes of a request into a message that keeps to its declared bounds."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf import symbol_database
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message

from penstock import errors
from penstock.access.v1 import access_pb2
from penstock.rpc.needs import needs_of
from penstock.rpc.validation import Bounds

REPEATED_REQUESTS_MAX = 64  # of one method, kept parsed and checked
REPEATED_REQUEST_BYTES_MAX = 512


class Requests:
    """Parses and checks. What is wrong with a request is told when the call has been let in, not while it is parsed."""

    def __init__(self) -> None:
        self._bounds = Bounds()

    def reader(self, method: MethodDescriptor) -> Callable[[bytes], Message]:
        """What makes a checked request of `method` from its bytes. It raises InvalidInput."""
        message = symbol_database.Default().GetSymbol(method.input_type.full_name)

        def read(data: bytes) -> Message:
            try:
                request: Message = message.FromString(data)
            except DecodeError as error:
                raise errors.InvalidInput(
                    f"the request cannot be parsed: {error}", reason="MALFORMED_MESSAGE"
                ) from error
            self._bounds.check(request)
            return request

        return _remembering(read) if repeats(method) else read


async def each(requests: AsyncIterator[bytes], read: Callable[[bytes], Message]) -> AsyncIterator[Message]:
    """The requests of a stream, read one by one."""
    async for data in requests:
        yield read(data)


def repeats(method: MethodDescriptor) -> bool:
    """Whether clients are likely to send the same request again and again."""
    unary = not method.client_streaming and not method.server_streaming
    return unary and needs_of(method).cache != access_pb2.CACHEABILITY_NONE


def _remembering(read: Callable[[bytes], Message]) -> Callable[[bytes], Message]:
    """Reads small requests of the same bytes once; services do not change what they are given."""
    known: OrderedDict[bytes, Message] = OrderedDict()

    def remembered(data: bytes) -> Any:
        found = known.get(data)
        if found is not None:
            return found
        found = read(data)
        if len(data) <= REPEATED_REQUEST_BYTES_MAX:
            known[data] = found
            if len(known) > REPEATED_REQUESTS_MAX:
                known.popitem(last=False)
        return found

    return remembered
