"""Long-running operations, in memory: they live as long as the work that they stand for."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import structlog
from google.longrunning import operations_proto_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from penstock import limits
from penstock.errors import NotFound, Overloaded, PenstockError
from penstock.rpc.status import status_of
from penstock.storage.deadline import detached
from penstock.storage.shares import Shares

log = structlog.get_logger()

Operation: TypeAlias = operations_proto_pb2.Operation
Report: TypeAlias = Callable[[Message], None]
Work: TypeAlias = Callable[[Report], Coroutine[Any, Any, Message]]


@dataclass(slots=True)
class _Kept:
    """One operation and the task behind it."""

    tenant: str
    request_id: str
    operation: Operation
    task: asyncio.Task[Message] = field(init=False)
    finished: float | None = None  # on the clock of time.monotonic


class Operations:
    """Starts work in the background and tells how it goes, to the tenant whose it is.

    A finished operation is kept for OPERATIONS_KEPT_S. Of more than OPERATIONS_KEPT_MAX of all tenants together one of
    the tenant that has the most finished ones goes, the one that finished first: so none makes another's go, and none
    keeps others from starting theirs.
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._under_way = Shares(limits.OPERATIONS_KEPT_MAX)

    def start(self, tenant: str, request_id: str, work: Work) -> Operation:
        """Begins `work`, which reports its progress as metadata and returns the response.

        The same `request_id` of the same tenant again returns the operation that it began; an empty one begins another.
        Raises Overloaded when too many of the tenant's are under way.
        """
        known = self.of_request(tenant, request_id)
        if known is not None:
            return known
        if not self._under_way.take(tenant):
            raise Overloaded("too many operations are under way", reason="TOO_MANY_OPERATIONS", retry_after_s=10.0)
        self._make_room()
        name = uuid.uuid4().hex
        kept = _Kept(tenant, request_id, Operation(name=f"operations/{name}"))
        self._kept[name] = kept
        kept.task = detached(work(kept.operation.metadata.Pack), kept.operation.name)
        kept.task.add_done_callback(lambda task: self._finish(kept, task))
        return kept.operation

    def of_request(self, tenant: str, request_id: str) -> Operation | None:
        """The operation that a request began; None when none did, or the request has no id."""
        for kept in self._kept.values() if request_id else ():
            if (kept.tenant, kept.request_id) == (tenant, request_id):
                return kept.operation
        return None

    def get(self, tenant: str, name: str) -> Operation:
        """The operation `operations/{name}`. Raises NotFound."""
        return self._find(tenant, name).operation

    async def cancel(self, tenant: str, name: str) -> Operation:
        """Stops the operation; one that is done stays as it is. Raises NotFound."""
        kept = self._find(tenant, name)
        kept.task.cancel()
        await asyncio.wait({kept.task})
        return kept.operation

    async def stop(self) -> None:
        """Stops all of them."""
        tasks = {kept.task for kept in self._kept.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _find(self, tenant: str, name: str) -> _Kept:
        kept = self._kept.get(name)
        if kept is None or kept.tenant != tenant:
            raise NotFound(
                f"there is no operation {name!r}; they are kept for a day, and until the server stops",
                reason="OPERATION_NOT_FOUND",
            )
        return kept

    def _make_room(self) -> None:
        oldest = time.monotonic() - limits.OPERATIONS_KEPT_S
        done = {name: kept.finished for name, kept in self._kept.items() if kept.finished is not None}
        for name in [name for name, finished in done.items() if finished < oldest]:
            del self._kept[name], done[name]
        while done and len(self._kept) >= limits.OPERATIONS_KEPT_MAX:
            of_tenant = Counter(self._kept[name].tenant for name in done)
            first = max(done, key=lambda name: (of_tenant[self._kept[name].tenant], -done[name]))
            del self._kept[first], done[first]

    def _finish(self, kept: _Kept, task: asyncio.Task[Message]) -> None:
        self._under_way.give_back(kept.tenant)
        kept.finished = time.monotonic()
        _tell(kept.operation, task)


def _tell(operation: Operation, task: asyncio.Task[Message]) -> None:
    """How it ended."""
    operation.done = True
    if task.cancelled():
        operation.error.CopyFrom(status_pb2.Status(code=code_pb2.CANCELLED, message="the operation was cancelled"))
        return
    error = task.exception()
    if error is None:
        operation.response.Pack(task.result())
    elif isinstance(error, PenstockError):
        operation.error.CopyFrom(status_of(error))
    else:
        log.error("an operation failed", operation=operation.name, exc_info=error)
        operation.error.CopyFrom(status_pb2.Status(code=code_pb2.INTERNAL, message="a fault in the server"))
