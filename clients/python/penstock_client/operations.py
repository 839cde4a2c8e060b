"""The state of the server."""

from penstock.operations.v1 import operations_service_pb2 as pb
from penstock.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from penstock_client.connection import Connection


class OperationsClient:
    """`client.operations`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> OperationsServiceStub:
        return OperationsServiceStub(self._connection.channel)

    async def health(self) -> pb.GetHealthResponse:
        """A summary; `status` is `healthy`, `degraded` or `unhealthy`. Not tried again: that it fails is an answer."""
        return await self._connection.call(self._stub.GetHealth, pb.GetHealthRequest(), pb.GetHealthResponse)

    async def ready(self) -> pb.CheckReadyResponse:
        """Whether the server should get traffic. Raises Unavailable, whose `metadata` says why, when it should not."""
        return await self._connection.call(self._stub.CheckReady, pb.CheckReadyRequest(), pb.CheckReadyResponse)

    async def status(self) -> pb.GetStatusResponse:
        """Everything about the server's state, its versions and sizes."""
        return await self._connection.read(self._stub.GetStatus, pb.GetStatusRequest(), pb.GetStatusResponse)
