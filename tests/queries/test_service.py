"""The service over real gRPC."""

from typing import TYPE_CHECKING, cast

import grpc
import pyarrow as pa
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from penstock import limits
from penstock.queries.v1 import queries_service_pb2 as pb
from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceStub
from tests.queries.serving import Area

if TYPE_CHECKING:
    from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceAsyncStub

BY_TYPE = "SELECT event_type, count() AS n, sum(amount) AS gmv FROM events GROUP BY event_type ORDER BY n"


@pytest.fixture
def client(stub: QueryServiceStub) -> "QueryServiceAsyncStub":
    return cast("QueryServiceAsyncStub", stub)


def details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, list[str], bool]:
    """The error's reason, the fields that are wrong, and whether trying again is said to help."""
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None
    return unpacked(status)


def unpacked(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, list[str], bool]:
    info, fields, retry = error_details_pb2.ErrorInfo(), list[str](), False
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
        retry = retry or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        detail.Unpack(info)
    return info, fields, retry


async def test_run(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(30)
    answer = await client.RunSql(pb.RunSqlRequest(sql=BY_TYPE))
    assert [MessageToDict(row) for row in answer.data] == [
        {"event_type": "purchase", "n": 10.0, "gmv": 25.0},
        {"event_type": "page_view", "n": 20.0, "gmv": 0.0},
    ]
    assert [(column.name, column.type) for column in answer.columns] == [
        ("event_type", "LowCardinality(String)"),
        ("n", "UInt64"),
        ("gmv", "Decimal(38, 6)"),
    ]
    assert (answer.row_count, answer.truncated, answer.cached, answer.reason) == (2, False, False, "")
    assert answer.version == area.log.head
    assert answer.statistics.rows_read == 8_192
    assert not answer.statistics.HasField("memory_bytes")
    assert (await client.RunSql(pb.RunSqlRequest(sql=BY_TYPE))).cached


async def test_no_rows_is_an_answer_with_a_reason(client: "QueryServiceAsyncStub") -> None:
    answer = await client.RunSql(pb.RunSqlRequest(sql="SELECT event_id FROM events"))
    assert (answer.row_count, answer.reason) == (0, "the statement found no rows")
    assert [column.type for column in answer.columns] == ["UUID"]


async def test_parameters_come_as_json(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(10)
    request = {
        "sql": "SELECT count() AS n FROM events WHERE site_id IN {sites:Array(String)} AND commit <= {most:Int64}",
        "parameters": {"sites": ["north", "x"], "most": 10},
    }
    answer = await client.RunSql(ParseDict(request, pb.RunSqlRequest()))
    assert answer.data[0]["n"] == 5.0


async def test_errors_say_what_is_wrong(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(10)
    wrong = {
        "SELECT file('/etc/passwd') AS x": ("SQL_REFUSED", ["sql"]),
        "SELECT nothing FROM events": ("INVALID_SQL", ["sql"]),
        "SELECT {a:Int8} AS x": ("INVALID_PARAMETER", ["parameters.a"]),
        "SELECT visitor, visitor FROM events": ("DUPLICATE_COLUMN", ["sql"]),
        "": ("INVALID_FIELD", ["sql"]),
    }
    for sql, (reason, fields) in wrong.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.RunSql(pb.RunSqlRequest(sql=sql))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        info, found, retry = details(caught.value)
        assert (info.reason, found, retry) == (reason, fields, False), sql


async def test_a_limit_is_named_and_trying_again_is_not_advised(client: "QueryServiceAsyncStub") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.RunSql(pb.RunSqlRequest(sql="SELECT length(range(toUInt64(400000000))) AS n"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, _, retry = details(caught.value)
    assert (info.reason, info.metadata["limit"], retry) == (
        "QUERY_LIMIT",
        "function_range_max_elements_in_block",
        False,
    )


async def test_a_response_is_cut_before_it_is_too_large(client: "QueryServiceAsyncStub") -> None:
    wide = "SELECT toString(range({n:UInt32})) AS text, arrayJoin(range(20)) AS number"
    request = ParseDict({"sql": wide, "parameters": {"n": 150_000}}, pb.RunSqlRequest())
    answer = await client.RunSql(request)
    assert answer.truncated
    assert 0 < answer.row_count == len(answer.data) < 20
    assert answer.ByteSize() < limits.RESPONSE_BYTES_MAX
    request.parameters["n"].number_value = 2_000_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.RunSql(request)
    assert details(caught.value)[0].reason == "QUERY_LIMIT"


async def test_a_stream_of_rows(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(2_500)
    request = pb.StreamSqlRequest(sql="SELECT event_time, amount FROM events")
    frames = [frame async for frame in client.StreamSql(request)]
    kinds = [frame.WhichOneof("frame") for frame in frames]
    assert (kinds[0], kinds[-1]) == ("header", "end")
    assert [column.name for column in frames[0].header.columns] == ["event_time", "amount"]
    batches = [frame.rows.rows for frame in frames[1:-1]]
    assert sum(map(len, batches)) == 2_500
    assert max(map(len, batches)) <= limits.SQL_STREAM_ROWS
    first = [*batches[0][0]]
    assert first == ["2026-03-01T12:00:00.000000Z", 2.5]
    assert frames[-1].end.statistics.rows_read == 8_192


async def test_a_stream_of_arrow(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(2_500)
    for sql, rows in (("SELECT event_time, amount, site_id FROM events", 2_500), (f"{BY_TYPE} LIMIT 0", 0)):
        request = pb.StreamSqlRequest(sql=sql, format=pb.STREAM_FORMAT_ARROW)
        frames = [frame async for frame in client.StreamSql(request)]
        table = pa.concat_tables(pa.ipc.open_stream(frame.arrow).read_all() for frame in frames[1:-1])
        assert table.num_rows == rows
        assert table.schema.names == [column.name for column in frames[0].header.columns]
        assert frames[-1].HasField("end")
    assert pa.types.is_decimal(table.schema.field("gmv").type)


async def test_a_stream_that_fails_says_so_in_its_last_frame(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(100)
    sql = "SELECT toUInt8(site_id) AS x FROM events"
    frames = [frame async for frame in client.StreamSql(pb.StreamSqlRequest(sql=sql))]
    assert [frame.WhichOneof("frame") for frame in frames] == ["header", "error"]
    assert unpacked(frames[-1].error)[0].reason == "INVALID_SQL"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [frame async for frame in client.StreamSql(pb.StreamSqlRequest(sql="SELECT nothing FROM events"))]
    assert details(caught.value)[0].reason == "INVALID_SQL"


async def test_validate(area: Area, client: "QueryServiceAsyncStub") -> None:
    answer = await client.ValidateSql(pb.ValidateSqlRequest(sql=f"{BY_TYPE} LIMIT {{n:UInt8}}"))
    assert answer.allowed
    assert [column.name for column in answer.columns] == ["event_type", "n", "gmv"]
    assert [(each.name, each.type) for each in answer.parameters] == [("n", "UInt8")]
    assert list(answer.views) == ["events"]
    refused = await client.ValidateSql(pb.ValidateSqlRequest(sql="SELECT\n file('x')"))
    assert not refused.allowed
    reason = refused.reasons[0]
    assert (reason.code, reason.line, reason.column) == ("FUNCTION_NOT_ALLOWED", 2, 2)
    wrong = await client.ValidateSql(pb.ValidateSqlRequest(sql="SELECT nothing FROM events"))
    assert (wrong.allowed, wrong.reasons[0].code, wrong.reasons[0].line) == (False, "INVALID_SQL", 0)


async def test_explain(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(20_000)
    await area.add(10, tenant="another")
    narrow = "SELECT count() AS n FROM events WHERE event_time < '2026-03-01 12:05:00'"
    plan = await client.ExplainSql(pb.ExplainSqlRequest(sql=narrow))
    assert plan.steps[0].depth == 0
    assert "Aggregating" in [step.kind for step in plan.steps]
    [read] = plan.reads
    assert (read.table, read.rows, plan.rows) == ("silver_events", 8_192, 8_192)
    assert read.bytes == plan.bytes > read.rows
    [primary] = [index for index in read.indexes if index.type == "PrimaryKey"]
    assert primary.granules == read.granules == 1
    assert "event_time" in primary.keys
    assert (await client.ExplainSql(pb.ExplainSqlRequest(sql="SELECT 1 AS a"))).rows == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.ExplainSql(pb.ExplainSqlRequest(sql="EXPLAIN SELECT 1"))
    assert details(caught.value)[0].reason == "SQL_REFUSED"


async def test_a_plan_is_the_same_whatever_other_tenants_have(area: Area, client: "QueryServiceAsyncStub") -> None:
    version = await area.add(50)
    for sql in ("SELECT count() AS n FROM events", "SELECT path FROM bronze_events", "SELECT name FROM products"):
        request = pb.ExplainSqlRequest(sql=sql, as_of_version=version)
        alone = await client.ExplainSql(request)
        await area.add(20_000, tenant="zebra")
        await area.add(20_000, tenant="alpha")
        assert await client.ExplainSql(request) == alone, sql


async def test_asking_says_how_it_is_configured(client: "QueryServiceAsyncStub") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.AskQuestion(pb.AskQuestionRequest(question="how many events?"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(caught.value)[0].reason == "ASK_NOT_CONFIGURED"
    assert "PENSTOCK_ASK_URL" in str(caught.value.details())
