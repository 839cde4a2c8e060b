"""The state of the server."""

from penstock.operations.v1 import operations_service_pb2 as pb
from penstock.operations.v1.operations_pb2 import SlowQuery
from penstock.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from penstock_client.connection import Connection
from penstock_client.operation import HEAVY_TIMEOUT_S


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

    async def cache_stats(self) -> pb.GetCacheStatsResponse:
        """What became of the tenant's cached answers, by kind."""
        return await self._connection.read(
            self._stub.GetCacheStats, pb.GetCacheStatsRequest(), pb.GetCacheStatsResponse
        )

    async def invalidate_cache(self, kind: str = "", *, user_id: str = "") -> pb.InvalidateCacheResponse:
        """Drops cached answers of a kind, or of kinds by a pattern with `*`; of one user where it is given."""
        request = pb.InvalidateCacheRequest(kind=kind, user_id=user_id)
        return await self._connection.call(self._stub.InvalidateCache, request, pb.InvalidateCacheResponse)

    async def warm_cache(self, limit: int = 0) -> pb.WarmCacheResponse:
        """Computes what is asked for most and not cached; `limit` answers at most, 0 for 200."""
        request = pb.WarmCacheRequest(limit=limit)
        return await self._connection.call(self._stub.WarmCache, request, pb.WarmCacheResponse, HEAVY_TIMEOUT_S)

    async def performance(self) -> pb.GetPerformanceResponse:
        """How fast the tenant's calls were answered in the last minutes, and what to do about it."""
        request = pb.GetPerformanceRequest()
        return await self._connection.read(self._stub.GetPerformance, request, pb.GetPerformanceResponse)

    async def slow_queries(self, limit: int = 0) -> list[SlowQuery]:
        """The tenant's newest slow calls, with what they took their time for; 0 for 50."""
        request = pb.ListSlowQueriesRequest(limit=limit)
        answer = await self._connection.read(self._stub.ListSlowQueries, request, pb.ListSlowQueriesResponse)
        return list(answer.slow_queries)
