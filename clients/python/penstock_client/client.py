"""The client."""

from types import TracebackType
from typing import Self

import grpc

from penstock_client.accounts import AccountsClient
from penstock_client.catalog import CatalogClient
from penstock_client.connection import Connection
from penstock_client.events import EventsClient
from penstock_client.feedback import FeedbackClient
from penstock_client.kpis import KpisClient
from penstock_client.operations import OperationsClient
from penstock_client.pipeline import PipelineClient
from penstock_client.recommendations import RecommendationsClient
from penstock_client.search import SearchClient
from penstock_client.sql import SqlClient


class Client:
    """A connection to a Penstock server; an async context manager.

    `target` is host:port. `api_key` is sent with every call; a user signs in with `accounts.sign_in` instead.
    `tls` is True for the system's roots, or gRPC channel credentials. `timeout_s` bounds a unary call and the opening
    of a writer; `retry_total_s` how long writers, tails and watches try to reach a server that is away. `options` are
    further gRPC channel arguments.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        api_key: str | None = None,
        tls: bool | grpc.ChannelCredentials = False,
        timeout_s: float = 30.0,
        retry_total_s: float = 120.0,
        options: tuple[tuple[str, int | str], ...] = (),
    ) -> None:
        self._connection = Connection(
            target, api_key=api_key, tls=tls, timeout_s=timeout_s, retry_total_s=retry_total_s, options=options
        )
        self.events = EventsClient(self._connection)
        self.kpis = KpisClient(self._connection)
        self.pipeline = PipelineClient(self._connection)
        self.sql = SqlClient(self._connection)
        self.catalog = CatalogClient(self._connection)
        self.search = SearchClient(self._connection)
        self.recommendations = RecommendationsClient(self._connection)
        self.feedback = FeedbackClient(self._connection)
        self.operations = OperationsClient(self._connection)
        self.accounts = AccountsClient(self._connection)

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._connection.target

    async def close(self) -> None:
        """Ends every call and the connection; close writers before."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
