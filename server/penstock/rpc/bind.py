"""Puts a service behind gRPC: everything that holds for every rpc stands here, once.

A service is a plain object with one method an rpc, named as in the contract:

    async def GetMetrics(self, request: GetMetricsRequest, call: Call) -> GetMetricsResponse
    async def WatchMetrics(self, request: WatchMetricsRequest, call: Call) -> AsyncIterator[WatchMetricsResponse]
    async def UploadEvents(self, requests: AsyncIterator[UploadEventsRequest], call: Call) -> UploadEventsResponse

It raises `PenstockError`s, and does not change the request that it is given. The edge makes the `Call`, enforces the
declared bounds of the request, sets a deadline where the client set none, and turns errors into statuses with details.
"""

import asyncio
import contextlib
import os
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeVar, cast

import grpc
import structlog
from google.protobuf import symbol_database
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from penstock import errors, limits
from penstock.access.v1 import access_pb2
from penstock.rpc.address import client_address
from penstock.rpc.call import Call
from penstock.rpc.status import abort, fault, status_of
from penstock.rpc.validation import Bounds
from penstock.storage.deadline import keep_to

log = structlog.get_logger()

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TENANT = "default"
REQUEST_ID_CHARS_MAX = 128
OPENING_S = 0.25
PEERS_MAX = 4_096  # whose addresses are remembered
REPEATED_REQUESTS_MAX = 64  # of one method, kept parsed and checked
REPEATED_REQUEST_BYTES_MAX = 512


class Malformed:
    """Stands in for a request that could not be parsed, so that the edge, not gRPC, answers for it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def raw_requests(method: F) -> F:
    """Marks a streaming rpc that takes its requests as the bytes that came."""
    cast(Any, method).raw_requests = True
    return method


def needs_of(method: MethodDescriptor) -> access_pb2.Needs:
    """What the contract declares that the method needs; a method that declares less than all of it is refused."""
    needs = method.GetOptions().Extensions[cast(Any, access_pb2.needs)]
    if not (needs.role and needs.cost and needs.cache):
        raise TypeError(f"{method.full_name} must declare role, cost and cache in option (penstock.access.v1.needs)")
    return cast(access_pb2.Needs, needs)


class Edge:
    """Binds services to a gRPC server."""

    def __init__(self, *, trusted_proxies: Sequence[IPv4Network | IPv6Network]) -> None:
        self._address = partial(client_address, trusted=trusted_proxies)
        self._peer_address = lru_cache(PEERS_MAX)(partial(self._address, forwarded_for=""))
        self._bounds = Bounds()
        self._random = random.Random(os.urandom(16))
        self._log = log.bind()  # the lazy one is bound anew with every line

    def handlers(self, service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
        """gRPC's handlers of all methods of `service`; raises TypeError where the implementation lacks one."""
        methods = {method.name: self._handler(method, implementation) for method in service.methods}
        return cast(grpc.GenericRpcHandler, grpc.method_handlers_generic_handler(service.full_name, methods))

    def _handler(self, method: MethodDescriptor, implementation: object) -> grpc.RpcMethodHandler:
        behaviour = getattr(implementation, method.name, None)
        if behaviour is None:
            raise TypeError(f"{type(implementation).__name__} does not implement {method.full_name}")
        raw = getattr(behaviour, "raw_requests", False)
        parse = None if raw else _parser(symbol_database.Default().GetSymbol(method.input_type.full_name))
        if parse is not None and _repeats(method):
            run, parse = self._runner(method, behaviour, self._remembering(parse)), None
        else:
            run = self._runner(method, behaviour, self._request)
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return cast(
            grpc.RpcMethodHandler,
            make(run, request_deserializer=parse, response_serializer=lambda message: message.SerializeToString()),
        )

    def _remembering(self, parse: Callable[[bytes], Message | Malformed]) -> Callable[[bytes], Message]:
        """Parses and checks small requests of the same bytes once; services do not change what they are given."""
        known: OrderedDict[bytes, Message] = OrderedDict()

        def remembered(data: bytes) -> Message:
            found = known.get(data)
            if found is not None:
                return found
            found = self._request(parse(data))
            if len(data) <= REPEATED_REQUEST_BYTES_MAX:
                known[data] = found
                if len(known) > REPEATED_REQUESTS_MAX:
                    known.popitem(last=False)
            return found

        return remembered

    def _runner(
        self, method: MethodDescriptor, behaviour: Callable[..., Any], check: Callable[[Any], Message]
    ) -> Callable[..., Any]:
        name = f"/{method.containing_service.full_name}/{method.name}"
        cost = needs_of(method).cost
        deadline_s = limits.HEAVY_DEADLINE_S if cost == access_pb2.COST_CLASS_HEAVY else limits.UNARY_DEADLINE_S

        raw = getattr(behaviour, "raw_requests", False)

        def checked(request: Any) -> Any:
            if raw:
                return request
            return self._requests(request) if method.client_streaming else check(request)

        if method.server_streaming:

            async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
                call = self._call(name, context)
                async with self._settled(call), _opening(call) as opening:
                    responses = behaviour(checked(request), call)
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            if not opening.done:
                                await opening.send()
                            yield response

            return stream

        async def unary(request: Any, context: grpc.aio.ServicerContext) -> Message:
            call = self._call(name, context)
            code = "OK"
            try:
                response = await self._within(call, deadline_s, behaviour(checked(request), call), method)
                took_ms = (time.perf_counter() - call.started) * 1e3
                metadata = (("x-request-id", call.request_id), ("x-process-time", f"{took_ms:.2f}ms"))
                if "x-forwarded-for" in call.metadata:  # to REST they must be headers, which are a message of their own
                    await context.send_initial_metadata(metadata)
                else:
                    context.set_trailing_metadata(metadata)
                return response
            except BaseException as error:
                code = _code(error)
                await self._end(call, error)
                raise
            finally:
                self._log.debug("call ended", method=name, code=code, seconds=time.perf_counter() - call.started)

        return unary

    async def _within(
        self, call: Call, default_s: float, work: Awaitable[Message], method: MethodDescriptor
    ) -> Message:
        remaining = call.context.time_remaining()
        if remaining is None and method.client_streaming:
            return await work  # an upload takes as long as its body
        seconds = default_s if remaining is None else remaining
        keep_to(time.monotonic() + seconds)
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            raise errors.TimedOut(
                f"the call did not finish within {seconds:.3g} s; a write may be stored all the same",
                reason="DEADLINE_EXCEEDED",
            ) from None

    def _request(self, request: Message | Malformed) -> Message:
        if isinstance(request, Malformed):
            raise errors.InvalidInput(f"the request cannot be parsed: {request.reason}", reason="MALFORMED_MESSAGE")
        self._bounds.check(request)
        return request

    async def _requests(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._request(request)

    def _call(self, method: str, context: grpc.aio.ServicerContext) -> Call:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = metadata.get("x-request-id", "")
        if not 0 < len(request_id) <= REQUEST_ID_CHARS_MAX:
            # Not os.urandom: it gives up the interpreter's lock, and a busy thread is slow to give it back.
            request_id = f"{self._random.getrandbits(128):032x}"
        return Call(
            method=method,
            tenant=DEFAULT_TENANT,
            request_id=request_id,
            client_address=(
                self._address(context.peer(), metadata["x-forwarded-for"])
                if "x-forwarded-for" in metadata
                else self._peer_address(context.peer())
            ),
            user_agent=metadata.get("x-user-agent", metadata.get("user-agent", ""))[: limits.ID_CHARS_MAX],
            context=context,
            metadata=metadata,
        )

    @contextlib.asynccontextmanager
    async def _settled(self, call: Call) -> AsyncIterator[None]:
        """Turns what goes wrong inside into a status, and logs how the call ended."""
        code = "OK"
        try:
            yield
        except BaseException as error:
            code = _code(error)
            await self._end(call, error)
            raise
        finally:
            self._log.debug("call ended", method=call.method, code=code, seconds=time.perf_counter() - call.started)

    async def _end(self, call: Call, error: BaseException) -> None:
        """Aborts the call with the status of what went wrong, which raises; returns where it has ended already."""
        match error:
            case errors.PenstockError():
                fields = {"method": call.method, "request_id": call.request_id}
                self._log.info("call refused", **fields, reason=error.reason, error=error.message)
                await self._abort(call, error)
            case grpc.aio.AbortError():
                pass
            case Exception():
                fields = {"method": call.method, "request_id": call.request_id, "tenant": call.tenant}
                self._log.error("call failed", **fields, exc_info=error)
                await abort(call.context, fault(call.request_id), [("x-request-id", call.request_id)])

    async def _abort(self, call: Call, error: errors.PenstockError) -> None:
        metadata = [("x-request-id", call.request_id)]
        if error.retry_after_s is not None:
            metadata.append(("retry-after", str(max(1, round(error.retry_after_s)))))
        await abort(call.context, status_of(error), metadata)


class _Opening:
    """Sends a stream's initial metadata, once."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = asyncio.Lock()
        self.done = False

    async def send(self) -> None:
        async with self._lock:
            if not self.done:
                await self._call.context.send_initial_metadata((("x-request-id", self._call.request_id),))
                self.done = True

    async def send_later(self) -> None:
        await asyncio.sleep(OPENING_S)
        await self.send()


@contextlib.asynccontextmanager
async def _opening(call: Call) -> AsyncIterator[_Opening]:
    """Has the initial metadata sent with the first response, or by itself after OPENING_S without one.

    Not before: headers that are out mean 200 to REST, and a refusal of the request could no longer be told. Not much
    later: a reader of a quiet stream waits for them to know that it is connected.
    """
    opening = _Opening(call)
    later = asyncio.create_task(opening.send_later())
    try:
        yield opening
    finally:
        later.cancel()
        await asyncio.gather(later, return_exceptions=True)


def _parser(message: type[Message]) -> Callable[[bytes], Message | Malformed]:
    def parse(data: bytes) -> Message | Malformed:
        try:
            return message.FromString(data)
        except DecodeError as error:
            return Malformed(str(error))

    return parse


def _repeats(method: MethodDescriptor) -> bool:
    """Whether clients are likely to send the same request again and again."""
    unary = not method.client_streaming and not method.server_streaming
    return unary and needs_of(method).cache != access_pb2.CACHEABILITY_NONE


def _code(error: BaseException) -> str:
    """How the log names what a call ended with."""
    match error:
        case errors.PenstockError():
            return error.reason
        case asyncio.CancelledError() | GeneratorExit():
            return "CANCELLED"
        case grpc.aio.AbortError():
            return "ABORTED"
        case _:
            return "INTERNAL"
