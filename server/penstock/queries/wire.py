"""Between the contract's messages and the area's own terms."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeAlias, cast

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from penstock import limits
from penstock.errors import InvalidInput, PenstockError, TooCostly, invalid_field
from penstock.queries.ask import Asked
from penstock.queries.costs import Cost, Selection, micros_of
from penstock.queries.explain import Index, Plan, Read
from penstock.queries.runner import Opened, Prepared
from penstock.queries.statement import Caller, Query, Result, Validation
from penstock.queries.v1 import queries_pb2, queries_service_pb2
from penstock.rpc.call import Call
from penstock.rpc.status import status_of
from penstock.rpc.tokens import token, values_of
from penstock.storage.user_sql.statement import Column, Format, Usage, parsed_rows

Frame = queries_service_pb2.StreamSqlResponse
_Row: TypeAlias = "list[float | str | bool | None]"  # lists and objects among them, which the stubs do not know of
FORMATS: dict[int, Format] = {
    queries_service_pb2.STREAM_FORMAT_UNSPECIFIED: "JSONCompactEachRow",
    queries_service_pb2.STREAM_FORMAT_ROWS: "JSONCompactEachRow",
    queries_service_pb2.STREAM_FORMAT_ARROW: "ArrowStream",
}


class _AsOf(Protocol):
    """A request that may name a version."""

    as_of_version: int

    @property
    def as_of_time(self) -> Timestamp: ...


class _Statement(_AsOf, Protocol):
    """A request that holds a statement."""

    sql: str

    @property
    def parameters(self) -> "dict[str, Value]": ...


def caller(call: Call) -> Caller:
    """On whose behalf."""
    return Caller(call.method.rpartition("/")[2], call.request_id, call.client_address)


def query(tenant: str, request: Message, limit: int = 0) -> Query:
    """The statement of a request that has one."""
    asked: _Statement = request  # type: ignore[assignment]
    values = {name: _python(value) for name, value in asked.parameters.items()}
    return Query(tenant, asked.sql, values, limit, asked.as_of_version, as_of_time(request))


def question(tenant: str, request: queries_service_pb2.AskQuestionRequest) -> Query:
    """A query that has everything but its statement."""
    return Query(tenant, "", {}, request.limit, request.as_of_version, as_of_time(request))


def as_of_time(request: Message) -> datetime | None:
    """The time of a request's version."""
    if not request.HasField("as_of_time"):
        return None
    asked: _AsOf = request  # type: ignore[assignment]
    return _datetime("as_of_time", asked.as_of_time)


def result(found: Result) -> queries_service_pb2.RunSqlResponse:
    """Rows as objects; as many as a response holds. Raises TooCostly when that is none."""
    names = [column.name for column in found.columns]
    data: list[Struct] = []
    left = limits.SQL_RESULT_BYTES_MAX
    for row in found.rows:
        made = Struct()
        made.update(dict(zip(names, cast(_Row, row), strict=True)))
        left -= made.ByteSize()
        if left < 0:
            break
        data.append(made)
    if found.rows and not data:
        raise _row_too_large()
    return queries_service_pb2.RunSqlResponse(
        sql=found.sql,
        columns=_columns(found.columns),
        data=data,
        row_count=len(data),
        truncated=found.truncated or len(data) < len(found.rows),
        statistics=_statistics(found.usage),
        cached=found.cached,
        version=found.version,
        reason="" if data else "the statement found no rows",
    )


def header(opened: Opened) -> Frame:
    """The first frame of a stream."""
    return Frame(
        header=queries_service_pb2.StreamSqlHeader(
            sql=opened.prepared.sql, columns=_columns(opened.columns), version=opened.prepared.version.commit
        )
    )


def frames(piece: bytes, form: Format, columns: Sequence[Column]) -> list[Frame]:
    """The frames of one piece of a result. Raises TooCostly for a row that no frame holds."""
    if form == "ArrowStream":
        if len(piece) > limits.SQL_RESULT_BYTES_MAX:
            raise _row_too_large()
        return [Frame(arrow=piece)]
    return [Frame(rows=queries_pb2.Rows(rows=rows)) for rows in _batches(parsed_rows(piece, columns))]


def _batches(rows: Sequence[list[object]]) -> Iterator[list[ListValue]]:
    batch: list[ListValue] = []
    size = 0
    for row in rows:
        made = ListValue()
        made.extend(cast(_Row, row))
        row_bytes = made.ByteSize()
        if row_bytes > limits.SQL_RESULT_BYTES_MAX:
            raise _row_too_large()
        if batch and (len(batch) == limits.SQL_STREAM_ROWS or size + row_bytes > limits.SQL_STREAM_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(made)
        size += row_bytes
    if batch:
        yield batch


def end(usage: Usage) -> Frame:
    """The last frame of a stream."""
    return Frame(end=queries_service_pb2.StreamSqlEnd(statistics=_statistics(usage)))


def failure(error: PenstockError) -> Frame:
    """The last frame of a stream that cannot go on."""
    return Frame(error=status_of(error))


def validation(found: Validation) -> queries_service_pb2.ValidateSqlResponse:
    """Whether a statement would run."""
    reasons = [
        queries_pb2.Refusal(code=each.code, message=each.message, line=each.position.line, column=each.position.column)
        for each in found.reasons
    ]
    if found.wrong:
        reasons.append(queries_pb2.Refusal(code="INVALID_SQL", message=found.wrong))
    return queries_service_pb2.ValidateSqlResponse(
        allowed=found.allowed,
        reasons=reasons,
        sql=found.sql,
        columns=_columns(found.columns),
        parameters=[queries_pb2.Parameter(name=name, type=kind) for name, kind in found.parameters.items()],
        views=found.views,
    )


def plan(prepared: Prepared, found: Plan) -> queries_service_pb2.ExplainSqlResponse:
    """How a statement would run."""
    return queries_service_pb2.ExplainSqlResponse(
        sql=prepared.sql,
        steps=[
            queries_pb2.PlanStep(depth=step.depth, kind=step.kind, description=step.description) for step in found.steps
        ],
        reads=[_read(read) for read in found.reads],
        rows=sum(read.rows for read in found.reads),
        bytes=sum(read.bytes for read in found.reads),
        version=prepared.version.commit,
    )


def answer(request: queries_service_pb2.AskQuestionRequest, asked: Asked) -> queries_service_pb2.AskQuestionResponse:
    """What came of a question."""
    return queries_service_pb2.AskQuestionResponse(
        question=request.question, model=asked.model, repaired=asked.repaired, result=result(asked.result)
    )


def selection(tenant: str, request: queries_service_pb2.ListQueryCostsRequest) -> Selection:
    """Which records to list. Raises InvalidInput (INVALID_PAGE_TOKEN)."""
    before = None
    if request.page_token:
        wrong = invalid_field("page_token", "is not one that this method gave", reason="INVALID_PAGE_TOKEN")
        micros, query_id = values_of(tenant, "costs", request.page_token, (int, str), wrong)
        before = (int(micros), str(query_id))
    return Selection(
        tenant,
        _datetime("start_time", request.start_time) if request.HasField("start_time") else None,
        _datetime("end_time", request.end_time) if request.HasField("end_time") else None,
        request.min_elapsed.ToMicroseconds() / 1e3,
        request.user,
        before,
        request.page_size or limits.PAGE_ROWS_DEFAULT,
    )


def costs(tenant: str, found: Sequence[Cost], limit: int) -> queries_service_pb2.ListQueryCostsResponse:
    """A page of records."""
    more = token(tenant, "costs", [micros_of(found[-1]), found[-1].query_id]) if len(found) == limit else ""
    return queries_service_pb2.ListQueryCostsResponse(costs=[_cost(each) for each in found], next_page_token=more)


def _cost(cost: Cost) -> queries_pb2.QueryCost:
    made = queries_pb2.QueryCost(
        query_id=cost.query_id,
        user=cost.caller.user,
        request_id=cost.caller.request_id,
        client_address=cost.caller.client_address,
        method=cost.caller.method,
        sql=cost.sql,
        views=cost.views,
        version=cost.version,
        outcome=cost.outcome,
        result_rows=cost.result_rows,
        statistics=_statistics(cost.usage),
    )
    made.time.FromDatetime(cost.time)
    return made


def _read(read: Read) -> queries_pb2.TableRead:
    return queries_pb2.TableRead(
        table=read.table,
        parts=read.parts,
        granules=read.granules,
        rows=read.rows,
        bytes=read.bytes,
        indexes=[_index(index) for index in read.indexes],
    )


def _index(index: Index) -> queries_pb2.IndexUse:
    return queries_pb2.IndexUse(
        type=index.type,
        name=index.name,
        keys=index.keys,
        parts_before=index.parts_before,
        parts=index.parts,
        granules_before=index.granules_before,
        granules=index.granules,
    )


def _columns(columns: Sequence[Column]) -> list[queries_pb2.Column]:
    return [queries_pb2.Column(name=column.name, type=column.type) for column in columns]


def _statistics(usage: Usage) -> queries_pb2.Statistics:
    return queries_pb2.Statistics(
        rows_read=usage.rows_read,
        bytes_read=usage.bytes_read,
        elapsed_ms=usage.elapsed_ms,
        memory_bytes=usage.memory_bytes,
    )


def _row_too_large() -> TooCostly:
    return TooCostly(
        "a row of the result is larger than a response may be",
        reason="QUERY_LIMIT",
        metadata={"limit": "max_response_bytes", "value": str(limits.SQL_RESULT_BYTES_MAX), "unit": "bytes"},
    )


def _datetime(field: str, stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f"{field}: {error}", reason="INVALID_FIELD") from error


def _python(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_python(each) for each in value.list_value.values]
        case "struct_value":
            return {name: _python(each) for name, each in value.struct_value.fields.items()}
    return None
