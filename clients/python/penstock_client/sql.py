"""SQL over the tenant's own data."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from penstock.queries.v1 import queries_service_pb2 as pb
from penstock.queries.v1.queries_pb2 import Column, QueryCost, Statistics
from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceStub
from penstock_client.connection import Connection
from penstock_client.errors import Unavailable, from_rpc, from_status
from penstock_client.fields import instant

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SQL_TIMEOUT_S = 65.0  # the server's own bound on one statement, and the way
STREAM_TIMEOUT_S = 310.0  # likewise, of a stream
COSTS = 100

Parameters: TypeAlias = Mapping[str, object]
AsOf: TypeAlias = int | datetime | None


@dataclass(frozen=True, slots=True)
class SqlResult:
    """The rows of a statement: iterate over it, or take `rows`, `columns` and what else `message` says.

    Values come as Python has them: datetimes in UTC, dates, Decimals, UUIDs, ints. What is inside of arrays, maps and
    tuples comes as JSON has it.
    """

    message: pb.RunSqlResponse

    @property
    def sql(self) -> str:
        """The statement, as the server understood it."""
        return self.message.sql

    @property
    def columns(self) -> Sequence[Column]:
        """Names and types, in order."""
        return self.message.columns

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, by column name."""
        readers = _readers(self.message.columns)
        return [_row(MessageToDict(row), readers) for row in self.message.data]

    @property
    def truncated(self) -> bool:
        """Whether there are more rows than came."""
        return self.message.truncated

    @property
    def version(self) -> int:
        """The version that the statement read; `as_of` takes it."""
        return self.message.version

    @property
    def statistics(self) -> Statistics:
        """What it cost."""
        return self.message.statistics

    def __len__(self) -> int:
        return len(self.message.data)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a dataframe; needs the extra `dataframe`."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=[column.name for column in self.message.columns])


@dataclass(frozen=True, slots=True)
class SqlPage:
    """Some of a statement's rows."""

    columns: Sequence[Column]
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """What came of a question."""

    model: str  # that wrote the statement
    repaired: bool  # whether its first statement did not run, and this is its second
    result: SqlResult


class SqlClient:
    """`client.sql`.

    A statement sees one version of all views, the newest or that of `as_of`: a commit's number, or a time. Cancelling a
    call, or leaving an iterator, stops the work in the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> QueryServiceStub:
        return QueryServiceStub(self._connection.channel)

    async def run(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        limit: int = 0,
        as_of: AsOf = None,
        timeout_s: float = SQL_TIMEOUT_S,
    ) -> SqlResult:
        """Runs one SELECT; at most `limit` rows (1,000 by default, 10,000 at most): for more, `pages` or `arrow`.

        `parameters` are the values of what stands as `{name:Type}` in the statement. Raises InvalidRequest, whose
        `violations` say what is wrong, and QueryLimit, whose `metadata` say which limit was reached.
        """
        request = pb.RunSqlRequest(sql=sql, parameters=_values(parameters), limit=limit, **_as_of(as_of))
        return SqlResult(await self._connection.read(self._stub.RunSql, request, pb.RunSqlResponse, timeout_s))

    async def pages(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        as_of: AsOf = None,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncIterator[SqlPage]:
        """All rows, as they are found, up to 1,000 at a time."""
        request = pb.StreamSqlRequest(sql=sql, parameters=_values(parameters), **_as_of(as_of))
        columns: Sequence[Column] = ()
        readers: Mapping[str, _Reader | None] = {}
        async for frame in self._frames(request, timeout_s):
            if frame.HasField("header"):
                columns = frame.header.columns
                readers = _readers(columns)
            elif frame.HasField("rows"):
                yield SqlPage(columns, [_row(_named(readers, row), readers) for row in frame.rows.rows])

    async def batches(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        as_of: AsOf = None,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncIterator[pa.RecordBatch]:
        """All rows, as they are found, as Arrow with every type as it is; needs the extra `arrow`."""
        import pyarrow as pa

        async for piece in self._arrow(sql, parameters, as_of, timeout_s):
            with pa.ipc.open_stream(piece) as reader:
                for batch in reader:
                    yield batch

    async def arrow(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        as_of: AsOf = None,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> pa.Table:
        """All rows as one Arrow table, with every type as it is; needs the extra `arrow`."""
        import pyarrow as pa

        pieces = [piece async for piece in self._arrow(sql, parameters, as_of, timeout_s)]
        return pa.concat_tables([pa.ipc.open_stream(piece).read_all() for piece in pieces])

    async def validate(self, sql: str) -> pb.ValidateSqlResponse:
        """Whether a statement would run, and if not, why not and where; of one that would, columns and parameters."""
        return await self._connection.read(
            self._stub.ValidateSql, pb.ValidateSqlRequest(sql=sql), pb.ValidateSqlResponse
        )

    async def explain(
        self, sql: str, parameters: Parameters | None = None, *, as_of: AsOf = None
    ) -> pb.ExplainSqlResponse:
        """How a statement would run, and how much it would read at most."""
        request = pb.ExplainSqlRequest(sql=sql, parameters=_values(parameters), **_as_of(as_of))
        return await self._connection.read(self._stub.ExplainSql, request, pb.ExplainSqlResponse)

    async def ask(
        self, question: str, *, limit: int = 0, as_of: AsOf = None, timeout_s: float = 2 * SQL_TIMEOUT_S
    ) -> SqlAnswer:
        """Has a language model write the statement. Raises Conflict until the server knows one."""
        request = pb.AskQuestionRequest(question=question, limit=limit, **_as_of(as_of))
        answer = await self._connection.call(self._stub.AskQuestion, request, pb.AskQuestionResponse, timeout_s)
        return SqlAnswer(answer.model, answer.repaired, SqlResult(answer.result))

    async def costs(
        self,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        min_elapsed_ms: float = 0.0,
        user: str = "",
        page_size: int = COSTS,
    ) -> AsyncIterator[QueryCost]:
        """Statements that were slow or heavy, newest first, page after page."""
        request = pb.ListQueryCostsRequest(
            start_time=instant(start_time) if start_time is not None else None,
            end_time=instant(end_time) if end_time is not None else None,
            min_elapsed=Duration(nanos=int(min_elapsed_ms % 1e3 * 1e6), seconds=int(min_elapsed_ms // 1e3)),
            user=user,
            page_size=page_size,
        )
        while True:
            page = await self._connection.read(self._stub.ListQueryCosts, request, pb.ListQueryCostsResponse)
            for each in page.costs:
                yield each
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _arrow(
        self, sql: str, parameters: Parameters | None, as_of: AsOf, timeout_s: float
    ) -> AsyncIterator[bytes]:
        request = pb.StreamSqlRequest(
            sql=sql, parameters=_values(parameters), format=pb.STREAM_FORMAT_ARROW, **_as_of(as_of)
        )
        async for frame in self._frames(request, timeout_s):
            if frame.HasField("arrow"):
                yield frame.arrow

    async def _frames(self, request: pb.StreamSqlRequest, timeout_s: float) -> AsyncIterator[pb.StreamSqlResponse]:
        """The frames before the last; raises the Error that the stream ends with."""
        import grpc

        stub: Any = self._stub
        call = stub.StreamSql(request, timeout=timeout_s, metadata=self._connection.metadata)
        try:
            async for frame in call:
                assert isinstance(frame, pb.StreamSqlResponse)
                if frame.HasField("error"):
                    raise from_status(frame.error)
                if frame.HasField("end"):
                    return
                yield frame
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        finally:
            call.cancel()
        raise Unavailable("the stream ended before its last frame", reason="STREAM_ENDED")


_Reader: TypeAlias = Callable[[Any], Any]
_TYPE = re.compile(r"(?:(?:Nullable|LowCardinality)\()*(?P<name>[A-Za-z]+)")
_READERS: Mapping[str, _Reader] = {
    "Int": int,
    "UInt": int,
    "Decimal": lambda value: Decimal(str(value)),
    "DateTime": datetime.fromisoformat,
    "Date": date.fromisoformat,
    "UUID": UUID,
}


def _readers(columns: Sequence[Column]) -> dict[str, _Reader | None]:
    """How each column's values are read; None: as they are."""
    found = {column.name: _TYPE.match(column.type) for column in columns}
    return {name: _READERS.get(match["name"]) if match else None for name, match in found.items()}


def _named(readers: Mapping[str, object], row: ListValue) -> dict[str, Any]:
    return dict(zip(readers, MessageToDict(row), strict=True))


def _row(values: dict[str, Any], readers: Mapping[str, _Reader | None]) -> dict[str, Any]:
    return {
        name: values[name] if read is None or values[name] is None else read(values[name])
        for name, read in readers.items()
    }


def _as_of(as_of: AsOf) -> dict[str, Any]:
    if as_of is None:
        return {}
    return {"as_of_time": instant(as_of)} if isinstance(as_of, datetime) else {"as_of_version": as_of}


def _values(parameters: Parameters | None) -> dict[str, Value]:
    return {name: _value(value) for name, value in (parameters or {}).items()}


def _value(value: object) -> Value:
    """A value as JSON has it; what JSON has no form for goes as the text that ClickHouse reads."""
    match value:
        case None:
            return Value(null_value=0)  # type: ignore[arg-type]
        case bool():
            return Value(bool_value=value)
        case int() if abs(value) > 2**53:
            return Value(string_value=str(value))
        case int() | float():
            return Value(number_value=value)
        case datetime():
            moment = value if value.tzinfo else value.astimezone()
            return Value(string_value=moment.isoformat())
        case str() | Decimal() | date() | UUID():
            return Value(string_value=str(value))
        case list() | tuple() | set() | frozenset():
            return Value(list_value=ListValue(values=[_value(each) for each in value]))
        case Mapping():
            return Value(struct_value=Struct(fields={str(name): _value(each) for name, each in value.items()}))
    raise TypeError(f"{type(value).__name__} cannot be a parameter")
