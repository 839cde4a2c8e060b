"""Puts a service behind gRPC: everything that holds for every rpc stands here, once.

A service is a plain object with one method an rpc, named as in the contract:

    async def GetMetrics(self, request: GetMetricsRequest, call: Call) -> GetMetricsResponse
    async def WatchMetrics(self, request: WatchMetricsRequest, call: Call) -> AsyncIterator[WatchMetricsResponse]
    async def UploadEvents(self, requests: AsyncIterator[UploadEventsRequest], call: Call) -> UploadEventsResponse

It raises `PenstockError`s, and does not change the request that it is given. It may have `at_once`: by the name of an
rpc, what gives its answer where that is in memory, see `penstock.rpc.at_once`. The edge makes the `Call`, lets it in
(who calls, may they, how often), enforces the declared bounds of the request, sets a deadline where the client set
none, knows answers that the client has already, and turns errors into statuses with details.
"""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeVar, cast

import grpc
import structlog
from google.protobuf import symbol_database
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from penstock import errors, limits, observation
from penstock.access.v1 import access_pb2
from penstock.observation import Observation
from penstock.rpc.address import client_address
from penstock.rpc.admission import Admission, busy
from penstock.rpc.at_once import AtOnce, InMemory
from penstock.rpc.call import Call, reply_headers, texts
from penstock.rpc.entry import Entry
from penstock.rpc.needs import needs_of
from penstock.rpc.opening import opening
from penstock.rpc.policy import OK, Outcome, Policy
from penstock.rpc.requests import Requests, each
from penstock.rpc.status import Refusal, abort, code_name, fault, retry_after, status_of
from penstock.storage.deadline import keep_to

log = structlog.get_logger()

F = TypeVar("F", bound=Callable[..., Any])

REQUEST_ID_CHARS_MAX = 128
PEERS_MAX = 4_096  # whose addresses are remembered
NOT_MODIFIED = ("x-http-status", "304")  # Envoy makes it the status of the reply, and its body empty


def raw_requests(method: F) -> F:
    """Marks a streaming rpc that takes its requests as the bytes that came."""
    cast(Any, method).raw_requests = True
    return method


class Edge:
    """Binds services to a gRPC server."""

    def __init__(self, *, trusted_proxies: Sequence[IPv4Network | IPv6Network], policy: Policy) -> None:
        self._address = partial(client_address, trusted=trusted_proxies)
        self._peer_address = lru_cache(PEERS_MAX)(partial(self._address, forwarded_for=""))
        self._policy = policy
        self._entry = Entry(policy.access, policy.rates)
        self._requests = Requests()
        self._busy = Refusal(busy())
        # Of this process alone, and counted: a call's part of chance would give up the interpreter's lock.
        self._ids_begin, self._ids = secrets.token_hex(10), itertools.count(1)
        self._log = log.bind()  # the lazy one is bound anew with every line

    def handlers(self, service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
        """gRPC's handlers of all methods of `service`; raises TypeError where the implementation lacks one, or the
        contract does not say what one needs."""
        methods = {method.name: self._handler(method, implementation) for method in service.methods}
        return cast(grpc.GenericRpcHandler, grpc.method_handlers_generic_handler(service.full_name, methods))

    def _handler(self, method: MethodDescriptor, implementation: object) -> grpc.RpcMethodHandler:
        behaviour = getattr(implementation, method.name, None)
        if behaviour is None:
            raise TypeError(f"{type(implementation).__name__} does not implement {method.full_name}")
        run = self._stream(method, behaviour) if method.server_streaming else self._unary(method, behaviour)
        serialized: Callable[[Message], bytes] | None = _bytes
        in_memory = getattr(implementation, "at_once", {}).get(method.name)
        if in_memory is not None and not self._policy.watcher.traces:  # which are to see each call as it begins
            run, serialized = self._at_once(method, in_memory, run), None
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        # Requests are read in the handler: who may not call is told so, not what is wrong with the request.
        return cast(grpc.RpcMethodHandler, make(run, request_deserializer=None, response_serializer=serialized))

    def _reading(self, method: MethodDescriptor, behaviour: Callable[..., Any]) -> Callable[[Any], Any]:
        """What makes of what gRPC gives what the service takes."""
        if getattr(behaviour, "raw_requests", False):
            return lambda requests: requests
        read = self._requests.reader(method)
        return partial(each, read=read) if method.client_streaming else read

    def _stream(self, method: MethodDescriptor, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        name, needs, read = _name(method), needs_of(method), self._reading(method, behaviour)
        entry, watcher = self._entry, self._policy.watcher

        async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
            call = self._call(name, context)
            outcome, seen = OK, observation.begin()
            watcher.started(call)
            try:
                if not entry.now(call, needs):
                    await entry.wait(call, needs)
                async with (
                    opening(call) as opened,
                    entry.holding(call) as held,
                    contextlib.aclosing(behaviour(read(request), call)) as responses,
                ):
                    async for response in responses:
                        if not opened.done:
                            await opened.send()
                        held.passes()
                        yield response
                        held.waits()
            except BaseException as error:
                outcome = _outcome(error)
                await self._end(call, error)
                raise
            finally:
                watcher.finished(call, outcome, time.perf_counter() - call.started, seen, stream=True)

        return stream

    def _unary(self, method: MethodDescriptor, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        name, needs, read = _name(method), needs_of(method), self._reading(method, behaviour)
        heavy = needs.cost == access_pb2.COST_CLASS_HEAVY
        deadline_s = limits.HEAVY_DEADLINE_S if heavy else limits.UNARY_DEADLINE_S
        admission = self._policy.admissions.get(needs.cost)
        tagged = self._policy.tags.applies(method)
        entry, watcher = self._entry, self._policy.watcher
        uploads = method.client_streaming  # which take as long as their bodies
        nothing: Message = symbol_database.Default().GetSymbol(method.output_type.full_name)()

        async def unary(data: Any, context: grpc.aio.ServicerContext) -> Message:
            if admission is not None and admission.turns_away():
                watcher.turned_away(name)
                await self._busy.tell(context, self._request_id(texts(context)))
            call = self._call(name, context)
            outcome, seen = OK, observation.begin()
            watcher.started(call)
            try:
                if not entry.now(call, needs):
                    await entry.wait(call, needs)
                request = read(data)
                if tagged and _may_know(call) and await self._is_known(method, call, data):
                    seen.cache = True
                    await self._answer(call, seen)
                    return nothing
                work = behaviour(request, call) if admission is None else _admitted(admission, behaviour, request, call)
                response = await self._within(call, deadline_s, work, method)
                await self._answer(call, seen)
                return response
            except BaseException as error:
                outcome = _outcome(error)
                await self._end(call, error)
                raise
            finally:
                watcher.finished(call, outcome, time.perf_counter() - call.started, seen, stream=uploads)

        return unary

    def _at_once(self, method: MethodDescriptor, in_memory: InMemory, unary: Callable[..., Any]) -> Callable[..., Any]:
        at_once = AtOnce(
            method, _name(method), self._requests.reader(method), in_memory, self._policy,
            request_id=self._request_id, address=self._client_address,
        )  # fmt: skip

        async def first(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            found = at_once.answer(data, context)
            if isinstance(found, bytes):
                return found
            if found is None:
                return _bytes(await unary(data, context))
            await context.send_initial_metadata(found.headers)
            return found.answer

        return first

    async def _is_known(self, method: MethodDescriptor, call: Call, request: bytes) -> bool:
        """Whether the client has the answer already; in any case it is told the answer's tag, where there is one."""
        tags = self._policy.tags
        digest = tags.digest(method, call.tenant, request)
        if digest is None:
            await tags.learn(call.tenant)
            digest = tags.digest(method, call.tenant, request)
        if digest is None:
            return False
        call.headers += tags.headers(digest)
        if not tags.matches(digest, call.metadata.get("if-none-match", "")):
            return False
        call.headers += (NOT_MODIFIED,)
        return True

    async def _answer(self, call: Call, seen: Observation) -> None:
        """Sends what goes along with an answer."""
        metadata = reply_headers(call, cached=bool(seen.cache))
        if "x-forwarded-for" in call.metadata:  # to REST they must be headers, which are a message of their own
            await call.context.send_initial_metadata(metadata)
        else:
            call.context.set_trailing_metadata(metadata)

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

    def _call(self, method: str, context: grpc.aio.ServicerContext) -> Call:
        metadata = texts(context)
        return Call(
            method=method,
            request_id=self._request_id(metadata),
            client_address=self._client_address(context, metadata),
            user_agent=metadata.get("x-user-agent", metadata.get("user-agent", ""))[: limits.ID_CHARS_MAX],
            context=context,
            metadata=metadata,
        )

    def _client_address(self, context: grpc.aio.ServicerContext, metadata: Mapping[str, str]) -> str:
        if "x-forwarded-for" in metadata:
            return self._address(context.peer(), metadata["x-forwarded-for"])
        return self._peer_address(context.peer())

    def _request_id(self, metadata: Mapping[str, str]) -> str:
        """The client's own, or a new one."""
        given = metadata.get("x-request-id", "")
        if 0 < len(given) <= REQUEST_ID_CHARS_MAX:
            return given
        return f"{self._ids_begin}{next(self._ids):012x}"

    async def _end(self, call: Call, error: BaseException) -> None:
        """Aborts the call with the status of what went wrong, which raises; returns where it has ended already."""
        fields = {
            "method": call.method,
            "request_id": call.request_id,
            "tenant": call.tenant,
            "caller": call.principal.caller,
        }
        match error:
            case errors.PenstockError():
                # Not a line for every call of a flood: metrics count them.
                tell = self._log.debug if isinstance(error, errors.Overloaded) else self._log.info
                tell("call refused", **fields, reason=error.reason, error=error.message)
                await self._abort(call, error)
            case grpc.aio.AbortError():
                pass
            case Exception():
                self._log.error("call failed", **fields, exc_info=error)
                await abort(call.context, fault(call.request_id), [*reply_headers(call)])

    async def _abort(self, call: Call, error: errors.PenstockError) -> None:
        metadata = [*reply_headers(call), *retry_after(error)]
        if isinstance(error, errors.Unauthenticated):
            metadata.append(("www-authenticate", 'Bearer realm="penstock"'))
        await abort(call.context, status_of(error), metadata)


async def _admitted(
    admission: Admission, behaviour: Callable[..., Awaitable[Message]], request: Any, call: Call
) -> Message:
    if admission.try_enter():
        try:
            return await behaviour(request, call)
        finally:
            admission.leave()
    async with admission.enter():
        return await behaviour(request, call)


def _bytes(answer: Message) -> bytes:
    return answer.SerializeToString()


def _may_know(call: Call) -> bool:
    """Whether whoever calls may have the answer already, or keep it: REST clients, and those who say so."""
    return "x-forwarded-for" in call.metadata or "if-none-match" in call.metadata


def _name(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _outcome(error: BaseException) -> Outcome:
    match error:
        case errors.PenstockError():
            return Outcome(code_name(error), error.reason)
        case asyncio.CancelledError() | GeneratorExit():
            return Outcome("CANCELLED", "CANCELLED")
        case _:
            return Outcome("INTERNAL", "INTERNAL")
