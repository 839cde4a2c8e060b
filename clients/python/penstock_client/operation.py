"""Work that goes on in the server."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message

from penstock.pipeline.v1 import pipeline_service_pb2 as pb
from penstock.pipeline.v1.pipeline_pb2 import Run
from penstock.pipeline.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from penstock_client.connection import Connection
from penstock_client.errors import TimedOut, from_status

# The server's own bound on heavy calls; they may take as long.
HEAVY_TIMEOUT_S = 600.0
POLL_S = 0.25

Result = TypeVar("Result")
Kind = TypeVar("Kind", bound=Message)


class Operation(Generic[Result]):
    """Work that goes on in the background; `message` is what the server last said of it."""

    def __init__(
        self, connection: Connection, message: operations_pb2.Operation, result: Callable[[Packed], Result]
    ) -> None:
        self._connection = connection
        self._result = result
        self.message = message

    @property
    def name(self) -> str:
        """Its full name."""
        return str(self.message.name)

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def done(self) -> bool:
        """Whether it had ended when the server was last asked."""
        return bool(self.message.done)

    @property
    def run(self) -> Run:
        """How the run of the pipeline that it stands for stood then; empty of any other work."""
        run = Run()
        self.message.metadata.Unpack(run)
        return run

    async def refresh(self) -> None:
        """Asks the server anew."""
        self.message = await self._connection.read(
            self._stub.GetOperation, pb.GetOperationRequest(id=self.id), operations_pb2.Operation
        )

    async def wait(self, timeout_s: float = HEAVY_TIMEOUT_S) -> Result:
        """Waits for its end, and returns what came of it.

        Raises the Error it ended with, TimedOut while it goes on, and TypeError when it is of another kind than it was
        asked for as.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.done:
                    await asyncio.sleep(POLL_S)
                    await self.refresh()
        except TimeoutError:
            raise TimedOut(f"{self.name} has not ended in {timeout_s:g} s", reason="DEADLINE_EXCEEDED") from None
        if self.message.HasField("error"):
            raise from_status(self.message.error)
        return self._result(self.message.response)

    async def cancel(self) -> None:
        """Asks it to stop; what it finished stays."""
        self.message = await self._connection.call(
            self._stub.CancelOperation, pb.CancelOperationRequest(id=self.id), operations_pb2.Operation
        )

    @property
    def _stub(self) -> PipelineServiceStub:
        return PipelineServiceStub(self._connection.channel)


async def found(connection: Connection, operation_id: str) -> operations_pb2.Operation:
    """An operation that was begun before. Raises NotFound."""
    stub, request = PipelineServiceStub(connection.channel), pb.GetOperationRequest(id=operation_id)
    return await connection.read(stub.GetOperation, request, operations_pb2.Operation)


def unpacked(kind: type[Kind], packed: Packed) -> Kind:
    """The message inside. Raises TypeError when it is of another kind."""
    message = kind()
    if not packed.Unpack(message):
        raise TypeError(f"the operation ended with a {packed.TypeName()}, not with a {kind.DESCRIPTOR.full_name}")
    return message
