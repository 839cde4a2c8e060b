"""Calls with bytes of the test's own choice, and what may be answered to them."""

from collections.abc import Iterable
from types import ModuleType

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from hypothesis import settings

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.kpis.v1 import kpis_service_pb2 as kpis
from penstock.operations.v1 import operations_service_pb2 as operations
from penstock.pipeline.v1 import pipeline_service_pb2 as pipeline


def methods_of(*contracts: ModuleType) -> list[MethodDescriptor]:
    """The methods of all services of these generated modules."""
    return [
        method
        for contract in contracts
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


METHODS = methods_of(pb, kpis, operations, pipeline)
THEIR_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
}
ANSWER_S = 20.0
WATCH_S = 0.3  # a stream without end is watched so long
NOT_UTF8 = b"\xff\xfe\x80"
few = settings(max_examples=8)


def path(method: MethodDescriptor) -> str:
    """As it is called on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def empty_request(method: MethodDescriptor) -> Message:
    """A request with nothing in it."""
    made: Message = GetMessageClass(method.input_type)()
    return made


def event(**given_: object) -> ev.Event:
    """An event that is good but for what is given."""
    return ev.Event(**{"event_type": "login", **given_})  # type: ignore[arg-type]


def invoke(
    channel: grpc.Channel,
    name: str | MethodDescriptor,
    *requests: bytes,
    metadata: Iterable[tuple[str, str | bytes]] = (),
) -> tuple[grpc.StatusCode, list[bytes], grpc.RpcError | None]:
    """Sends bytes as they are: the status, the answers' bytes, and the error."""
    method = name if isinstance(name, MethodDescriptor) else next(each for each in METHODS if each.name == name)
    kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    call = getattr(channel, kind)(path(method))
    endless = method.server_streaming and not method.client_streaming
    answers: list[bytes] = []
    try:
        given_ = iter(requests) if method.client_streaming else requests[0]
        answer = call(given_, timeout=WATCH_S if endless else ANSWER_S, metadata=tuple(metadata))
        answers += answer if method.server_streaming else [answer]
    except grpc.RpcError as error:
        if endless and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return grpc.StatusCode.OK, answers, None
        return error.code(), answers, error
    return grpc.StatusCode.OK, answers, None


def assert_their_fault(code: grpc.StatusCode, error: grpc.RpcError | None) -> None:
    """OK, or a status that says it was the client's fault."""
    assert code is grpc.StatusCode.OK or code in THEIR_FAULT, f"{code} {error.details() if error else ''}"


def fields(error: grpc.RpcError | None) -> list[str]:
    """The fields that an error names."""
    assert error is not None
    found = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    bad = error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(found).details:
        detail.Unpack(bad)
    return [violation.field for violation in bad.field_violations]
