"""The one table from Penstock's errors to what gRPC and REST clients see."""

import math

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from penstock import errors

DOMAIN = "penstock"
DETAILS = "grpc-status-details-bin"  # where gRPC's clients look for the full status

CODES: dict[type[errors.PenstockError], int] = {
    errors.InvalidInput: code_pb2.INVALID_ARGUMENT,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyStored: code_pb2.ALREADY_EXISTS,
    errors.Conflict: code_pb2.FAILED_PRECONDITION,
    errors.OutOfRange: code_pb2.OUT_OF_RANGE,
    errors.TakenOver: code_pb2.ABORTED,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.TooCostly: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.TimedOut: code_pb2.DEADLINE_EXCEEDED,
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def code_name(error: errors.PenstockError) -> str:
    """The name of an error's gRPC status."""
    return str(_BY_NUMBER[CODES[type(error)]].name)


def packed(message: Message) -> Any:
    """`message` in an Any."""
    wrapped = Any()
    wrapped.Pack(message)
    return wrapped


def status_of(error: errors.PenstockError) -> status_pb2.Status:
    """The full status of an error: always one ErrorInfo, BadRequest and RetryInfo where they apply."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata),
    ]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations
                ]
            )
        )
    if error.retry_after_s is not None:
        fraction, whole = math.modf(error.retry_after_s)
        delay = Duration(seconds=int(whole), nanos=int(fraction * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=CODES[type(error)], message=error.message, details=[packed(detail) for detail in details]
    )


def retry_after(error: errors.PenstockError) -> tuple[tuple[str, str], ...]:
    """The header that tells REST clients when to come again, where an error says so."""
    return () if error.retry_after_s is None else (("retry-after", str(max(1, math.ceil(error.retry_after_s)))),)


def fault(request_id: str) -> status_pb2.Status:
    """The status of what nobody foresaw; what it was is told to the log only."""
    message = f"a fault in the server; its log has it under request id {request_id}"
    detail = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN)
    return status_pb2.Status(code=code_pb2.INTERNAL, message=message, details=[packed(detail)])


class Refusal:
    """An error that is the same for whoever gets it, made once: for calls that must cost next to nothing."""

    def __init__(self, error: errors.PenstockError) -> None:
        status = status_of(error)
        self._code = _BY_NUMBER[status.code]
        self._message = status.message
        self._metadata = (
            ("x-process-time", "0.00ms"),
            ("x-cache-hit", "false"),
            *retry_after(error),
            (DETAILS, status.SerializeToString()),
        )

    async def tell(self, context: grpc.aio.ServicerContext, request_id: str) -> None:
        """Ends the call with it; never returns."""
        await context.abort(self._code, self._message, (("x-request-id", request_id), *self._metadata))


async def abort(context: grpc.aio.ServicerContext, status: status_pb2.Status, metadata: list[tuple[str, str]]) -> None:
    """Ends the call with `status`; never returns.

    REST clients see `metadata` only because it is of this very call: Envoy takes response headers of a failed rpc
    from its trailers.
    """
    trailing = [*metadata, (DETAILS, status.SerializeToString())]
    await context.abort(_BY_NUMBER[status.code], status.message, tuple(trailing))
