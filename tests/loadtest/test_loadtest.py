"""The benchmarks' own parts: profiles that fit the contract, rows that mean what they say, results that add up."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from loadtest import rows
from loadtest.plot import draw
from loadtest.result import Better, Result
from loadtest.stream import Load, Refused, opened, run_all
from penstock.events.v1 import events_pb2
from penstock.events.v1 import events_service_pb2 as pb
from tests.process import ServerProcess

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "loadtest" / "ghz").glob("*.json"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_a_ghz_profile_calls_a_method_with_messages_that_it_takes(profile: Path) -> None:
    config = json.loads(profile.read_text(encoding="utf-8"))
    contract = descriptor_pb2.FileDescriptorSet.FromString((ROOT / config["protoset"]).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in contract.file:
        pool.Add(file)
    service, _, name = config["call"].rpartition(".")
    method = pool.FindServiceByName(service).FindMethodByName(name)
    message = message_factory.GetMessageClass(method.input_type)
    data = config["data"]
    assert isinstance(data, list) == method.client_streaming
    for each in data if isinstance(data, list) else [data]:
        json_format.ParseDict(each, message())


def test_columns_hold_the_rows_that_messages_hold() -> None:
    (message,) = rows.as_messages(50, batches=1).requests
    (columns,) = rows.as_columns(50, batches=1).requests
    events = pb.AppendRequest.FromString(message).event_rows.events
    table = pa.ipc.open_stream(pb.AppendRequest.FromString(columns).arrow_rows.ipc_stream).read_all().to_pylist()
    for event, row in zip(events, table, strict=True):
        assert (event.event_type, event.visitor_id, event.url) == (row["event_type"], row["visitor_id"], row["url"])
        assert (event.price if event.HasField("price") else None) == row["price"]
        assert dict(event.properties) == dict(row["properties"])


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**40])
def test_an_offset_that_is_appended_is_the_requests_offset(number: int) -> None:
    request = rows.as_messages(2, batches=1).request(7, number)
    parsed = pb.AppendRequest.FromString(request)
    assert parsed.offset == number
    assert len(parsed.event_rows.events) == 2


async def test_a_load_counts_every_row_of_every_stream(server: ServerProcess) -> None:
    batches = rows.as_messages(10, batches=3)
    async with opened(server.target, ["counted-1", "counted-2", "counted-3"]) as streams:
        fast = await run_all(streams, Load(batches, 5.0, rows_max=200))
        steady = await run_all(streams, Load(batches, 0.3, interval_s=0.05))
    assert fast.rows == 600
    assert len(fast.waits_s) == 60
    assert steady.rows + 10 * steady.not_sent == pytest.approx(180, abs=30)


async def test_a_refused_batch_ends_the_benchmark(server: ServerProcess) -> None:
    bad = pb.AppendRequest(event_rows=pb.EventRows(events=[events_pb2.Event()])).SerializeToString()
    with pytest.raises(ExceptionGroup) as caught:
        async with opened(server.target, ["refused"]) as streams:
            await run_all(streams, Load(rows.Batches(1, [bad]), 5.0, rows_max=1))
    assert caught.group_contains(Refused, match="was answered with")


def test_a_result_says_whether_its_target_is_met(tmp_path: Path) -> None:
    results = [
        Result("ingest", 80.0, "rows/s", 100.0, "alone", target=0.8),
        Result("latency", 120.0, "ms", 100.0, "promised", better=Better.LOWER, target=1.0),
        Result("rate", 5.0, "rows/s", 100.0, "alone", target_value=10.0, details={"streams": 4}),
        Result("plain", 5.0, "rpc/s", 10.0, "empty"),
        Result("fast but wrong", 95.0, "rpc/s", 100.0, "empty", target=0.7, holds=False),
    ]
    assert [result.met for result in results] == [True, False, False, None, False]
    lines = [json.loads(result.line()) for result in results]
    assert [line["ratio"] for line in lines] == [0.8, 1.2, 0.05, 0.5, 0.95]
    assert lines[2]["streams"] == 4
    draw(lines, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
