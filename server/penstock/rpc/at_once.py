"""Answers that are in memory already are given at once.

Around a call that may have to wait stand a deadline, a place among those that run, what it tells of itself, and more. A
dashboard's question that everybody asks again needs none of it, and that was most of what it cost: of code that does
little each part costs several times what it costs alone, because gRPC's own code has put it out of the processor's
caches meanwhile. GetMetrics from memory reaches 0.62 of an empty call's rate the other way, and 0.80 this way.

What holds for every call holds here: a credential that holds, a role, room in the caller's window, a request id, and it
is counted. Whatever is not plain goes the other way, which alone refuses, waits, and knows what the client has already.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from penstock.errors import PenstockError
from penstock.rpc.call import standard_headers
from penstock.rpc.needs import needs_of
from penstock.rpc.policy import Policy
from penstock.rpc.rate_limits import headers
from penstock.rpc.requests import REPEATED_REQUEST_BYTES_MAX

# Of a call's metadata; all of it takes some microseconds more.
_READ = frozenset(("authorization", "x-api-key", "x-request-id", "x-forwarded-for", "if-none-match"))
ASKED_MAX = 1_024  # questions of one method that are known again by their bytes, of all tenants


@dataclass(frozen=True, slots=True)
class InMemory:
    """What a service gives for one of its methods."""

    asked: Callable[[str, Any], object]  # of a tenant and a request: what is asked; None for what is not in memory
    answer: Callable[[Any], bytes | None]  # to what is asked, where it is in memory and right at this moment


class ToRest(NamedTuple):
    """An answer that goes to REST, where what goes along with it is sent before."""

    answer: bytes
    headers: tuple[tuple[str, str], ...]


class AtOnce:
    """Answers one unary method of a service from memory."""

    def __init__(
        self,
        method: MethodDescriptor,
        name: str,
        read: Callable[[bytes], Message],
        in_memory: InMemory,
        policy: Policy,
        *,
        request_id: Callable[[dict[str, str]], str],
        address: Callable[[grpc.aio.ServicerContext, dict[str, str]], str],
    ) -> None:
        """`name` is as in `Call.method`; `read` makes a checked request; `address` tells who calls from where."""
        needs = needs_of(method)
        self._method, self._name = method, name
        self._role, self._cost = needs.role, needs.cost
        self._read = read
        self._in_memory = in_memory
        self._asked: OrderedDict[tuple[str, bytes], object] = OrderedDict()
        self._access, self._rates, self._watcher = policy.access, policy.rates, policy.watcher
        self._tags = policy.tags if policy.tags.applies(method) else None
        self._request_id = request_id
        self._address = address

    def answer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes | ToRest | None:
        """The answer to a request, what goes along with it set; None where the call must go the other way, of which
        nothing has been done then."""
        began = time.perf_counter()
        metadata: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            if key in _READ:
                metadata[key] = cast(str, value)
        if "if-none-match" in metadata:
            return None
        try:
            caller = self._access.principal(metadata)
            if self._role not in caller.allowed:
                return None
            asked = self._asked.get((caller.tenant, data)) or self._read_anew(caller.tenant, data)
        except PenstockError:
            return None
        found = None if asked is None else self._in_memory.answer(asked)
        if found is None:
            return None
        more: tuple[tuple[str, str], ...] = ()
        to_rest = "x-forwarded-for" in metadata
        if to_rest and self._tags is not None:
            digest = self._tags.digest(self._method, caller.tenant, data)
            if digest is None:
                return None
            more = self._tags.headers(digest)
        if self._rates.window_of(caller) is not None:
            taken = self._rates.charge_now(caller, self._address(context, metadata), self._cost)
            if taken is None or not taken.allowed:
                return None
            more = headers(taken) + more
        seconds = time.perf_counter() - began
        told = standard_headers(self._request_id(metadata), seconds, cached=True, more=more)
        self._watcher.answered(self._name, caller.tenant, seconds)
        if to_rest:
            return ToRest(found, told)
        context.set_trailing_metadata(told)
        return found

    def _read_anew(self, tenant: str, data: bytes) -> object:
        asked = self._in_memory.asked(tenant, self._read(data))
        if asked is not None and len(data) <= REPEATED_REQUEST_BYTES_MAX:
            self._asked[tenant, data] = asked
            if len(self._asked) > ASKED_MAX:
                self._asked.popitem(last=False)
        return asked
