"""Replaying files: what is read, what it becomes, and how it goes on after an interruption."""

import asyncio
import gzip
import lzma
import math
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from penstock_client.replay import (
    PRESETS,
    ReplayOptions,
    ReplayProgress,
    ReplaySource,
    field_mapping,
    parse_mapping,
    replay,
    stream_id_of,
)
from penstock_client.replay_mapping import instants
from tests.client.model_server import ModelServer

TAOBAO = "".join(
    f"{user},{item},7,{behaviour},{when}\n"
    for user, item, behaviour, when in [
        (1, 10, "pv", 1_511_658_000),
        (2, 11, "cart", 1_511_658_001),
        (3, 12, "fav", 1_511_658_003),
        (4, 13, "buy", 1_511_658_010),
        (5, 14, "pv", 15),
    ]
)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A model server."""
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def client(model: ModelServer) -> AsyncIterator[penstock.Client]:
    """A client of it."""
    async with penstock.Client(model.target) as opened:
        yield opened


def events(source: ReplaySource, skip: int = 0) -> list[dict[str, Any]]:
    """All rows of a file as the columns that are sent."""
    rows: list[dict[str, Any]] = []
    for chunk in source.chunks(skip):
        times = source.mapping.times(chunk.table) if source.mapping.times else None
        rows += source.mapping.events(chunk.table, times).to_pylist()
    return rows


def micros(text: str) -> int:
    """An ISO time as microseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1e6)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.csv", b"event_type,user_id\nview,u0\nview,u1\n"),
            ("a.csv", b"\xef\xbb\xbfevent_type,user_id\r\nview,u0\r\n\r\nview,u1"),
            ("a.tsv", b"event_type\tuser_id\nview\tu0\nview\tu1\n"),
            ("a.csv.xz", lzma.compress(b"event_type,user_id\nview,u0\nview,u1\n")),
            ("a.csv.gz", gzip.compress(b'event_type,user_id\nview,u0\n"view",u1\n', mtime=0)),
            ("a.ndjson", b'{"event_type":"view","user_id":"u0"}\n\n{"user_id":"u1","event_type":"view"}'),
            (
                "a.jsonl.gz",
                gzip.compress(b'{"event_type":"view","user_id":"u0"}\n{"event_type":"view","user_id":"u1"}', mtime=0),
            ),
        ],
    )
    def test_formats(self, tmp_path: Path, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        source = ReplaySource(tmp_path / name, field_mapping({}))
        assert events(source) == [{"event_type": "view", "user_id": "u0"}, {"event_type": "view", "user_id": "u1"}]
        assert events(source, skip=1) == [{"event_type": "view", "user_id": "u1"}]
        assert events(source, skip=2) == []

    def test_parquet_of_several_chunks(self, tmp_path: Path) -> None:
        table = pa.table({"event_type": ["view"] * 25_000, "quantity": range(25_000)})
        pq.write_table(table, tmp_path / "a.parquet")
        source = ReplaySource(tmp_path / "a.parquet", field_mapping({}))
        assert [row["quantity"] for row in events(source, skip=10_001)] == list(range(10_001, 25_000))
        assert [chunk.fraction for chunk in source.chunks(0)] == [0.4, 0.8, 1.0]

    def test_a_format_that_is_not_known(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="must end in"):
            next(ReplaySource(tmp_path / "a.xlsx", field_mapping({})).chunks())

    def test_a_line_that_is_no_row_stays_one_without_a_type(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"event_type,user_id\nview,u0\nview,u1,more\nview\nview,\xff\n")
        first, long, short, odd = events(ReplaySource(tmp_path / "a.csv", field_mapping({})))
        assert (first["event_type"], first["malformed_row"]) == ("view", None)
        assert (long["event_type"], long["malformed_row"]) == ("", "view,u1,more")
        assert (short["event_type"], short["malformed_row"]) == ("", "view")
        assert odd["user_id"] == "�"
        (tmp_path / "a.ndjson").write_bytes(b'{"event_type":"view"}\n{"event_type":\n[1]\n')
        rows = events(ReplaySource(tmp_path / "a.ndjson", field_mapping({"site_id": "'shop'"})))
        assert [row["event_type"] for row in rows] == ["view", "", ""]
        assert [row["malformed_row"] for row in rows] == [None, '{"event_type":', "[1]"]


class TestMapping:
    def test_columns_constants_and_what_is_left(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("what,who,when,shelf\nbuy,u,2024-05-01T12:00:00+02:00,7\n")
        mapping = parse_mapping(["event_type=what", "user_id=who", "timestamp=when", "site_id='shop'"])
        assert events(ReplaySource(tmp_path / "a.csv", mapping)) == [
            {
                "event_type": "buy",
                "user_id": "u",
                "site_id": "shop",
                "shelf": "7",
                "timestamp": micros("2024-05-01T10:00:00+00:00"),
            }
        ]

    def test_a_file_without_a_header(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("buy;u\n")
        mapping = field_mapping({"event_type": "c1", "user_id": "c2"}, delimiter=";", header=False)
        assert events(ReplaySource(tmp_path / "a.csv", mapping)) == [{"event_type": "buy", "user_id": "u"}]

    def test_what_does_not_fit_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("what\nbuy\n")
        with pytest.raises(ValueError, match="has no column action; it has what"):
            events(ReplaySource(tmp_path / "a.csv", field_mapping({"event_type": "action"})))
        with pytest.raises(ValueError, match="kind is no field of an event"):
            field_mapping({"kind": "what"})
        with pytest.raises(ValueError, match="no preset"):
            parse_mapping(["offline-retail"])

    def test_nested_json(self, tmp_path: Path) -> None:
        (tmp_path / "a.ndjson").write_text(
            '{"event_type":"view","price":1.5,"properties":{"a":1},"attribution":{"source":"mail"},"tags":["x"]}\n'
        )
        assert events(ReplaySource(tmp_path / "a.ndjson", field_mapping({}))) == [
            {"a": "1", "event_type": "view", "price": 1.5, "tags": '["x"]', "utm_source": "mail"}
        ]

    def test_numbers_that_are_none_are_for_the_server_to_refuse(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("event_type,price,quantity\nb,1.5, 2 \nb,,\nb,dear,1\nb,1,2.5\nb,1e400,1\n")
        good, absent, dear, half, huge = events(ReplaySource(tmp_path / "a.csv", field_mapping({})))
        assert (good["price"], good["quantity"]) == (1.5, 2)
        assert (absent["price"], absent["quantity"]) == (None, None)
        assert math.isnan(dear["price"])
        assert dear["price_unreadable"] == "dear"
        assert math.isnan(half["price"])
        assert half["quantity_unreadable"] == "2.5"
        assert math.isinf(huge["price"])

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("2024-05-01", "2024-05-01T00:00:00+00:00"),
            ("2024-05-01 12:00:00.25", "2024-05-01T12:00:00.250000+00:00"),
            ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00+00:00"),
            ("1714564800", "2024-05-01T12:00:00+00:00"),
            ("1714564800.5", "2024-05-01T12:00:00.500000+00:00"),
            ("1714564800000", "2024-05-01T12:00:00+00:00"),
            ("1714564800000000", "2024-05-01T12:00:00+00:00"),
            ("15", "1970-01-01T00:00:15+00:00"),
            ("", "1970-01-01T00:00:00+00:00"),
            ("yesterday", "1970-01-01T00:00:00+00:00"),
        ],
    )
    def test_times_as_text(self, value: str, expected: str) -> None:
        for others in ([], ["2024-05-01"]):  # alone, and where the column cannot be read as numbers at once
            column = pa.chunked_array([pa.array([value, *others])])
            assert instants(column)[0].as_py() == micros(expected)

    def test_times_as_timestamps(self) -> None:
        zoned = pa.chunked_array([pa.array([datetime(2024, 5, 1, tzinfo=UTC), None], pa.timestamp("ns", "CET"))])
        assert instants(zoned).to_pylist() == [micros("2024-05-01T00:00:00+00:00"), 0]


class TestPresets:
    def test_online_retail(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "InvoiceNo": ["536365", "C536379"],
                "StockCode": ["85123A", "D"],
                "Description": ["HOLDER", None],
                "Quantity": [6, -1],
                "InvoiceDate": pa.array(
                    [datetime(2010, 12, 1, 8, 26), datetime(2010, 12, 1, 9, 41)], pa.timestamp("us")
                ),
                "UnitPrice": [2.55, 27.5],
                "CustomerID": [17850, None],
                "Country": ["United Kingdom", "France"],
            }
        )
        pq.write_table(table, tmp_path / "a.parquet")
        bought, refunded = events(ReplaySource(tmp_path / "a.parquet", PRESETS["online-retail"]))
        assert bought == {
            "event_type": "purchase",
            "order_id": "536365",
            "product_id": "85123A",
            "user_id": "17850",
            "price": 2.55,
            "quantity": 6,
            "currency": "GBP",
            "site_id": "online-retail",
            "country": "United Kingdom",
            "description": "HOLDER",
            "timestamp": micros("2010-12-01T08:26:00+00:00"),
        }
        assert (refunded["event_type"], refunded["user_id"], refunded["quantity"]) == ("refund", None, -1)

    def test_taobao(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(TAOBAO)
        rows = events(ReplaySource(tmp_path / "a.csv", PRESETS["taobao"]))
        assert [row["event_type"] for row in rows] == ["page_view", "add_to_cart", "favorite", "purchase", "page_view"]
        assert (rows[0]["user_id"], rows[0]["product_id"], rows[0]["category"]) == ("1", "10", "7")
        assert rows[4]["timestamp"] == 15_000_000

    def test_eshop_clothing(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(
            "year;month;day;order;country;session ID;page 1 (main category);page 2 (clothing model);colour;location;"
            "model photography;price;price 2;page\n2008;4;1;2;29;1;1;A16;1;6;1;33;2;1\n"
        )
        (row,) = events(ReplaySource(tmp_path / "a.csv", PRESETS["eshop-clothing"]))
        assert (row["event_type"], row["session_id"], row["product_id"], row["price"]) == ("page_view", "1", "A16", 33)
        assert row["timestamp"] == micros("2008-04-01T00:00:02+00:00")
        assert row["path"] == "/page/1"


class TestReplaying:
    async def test_a_file_is_sent_once(self, client: penstock.Client, model: ModelServer, tmp_path: Path) -> None:
        (tmp_path / "a b.csv").write_text(TAOBAO)
        source = ReplaySource(tmp_path / "a b.csv", PRESETS["taobao"])
        told: list[ReplayProgress] = []
        result = await replay(client, source, progress=told.append)
        assert result.stream_id.startswith("replay:a-b.csv:")
        assert (result.rows_skipped, result.rows_accepted) == (0, 5)
        assert model.stored(result.stream_id) == ["1", "2", "3", "4", "5"]
        assert (told[-1].fraction, told[-1].rows_sent) == (1.0, 5)
        again = await replay(client, source)
        assert (again.rows_skipped, again.rows_accepted) == (5, 0)

    async def test_it_goes_on_where_it_was(self, client: penstock.Client, model: ModelServer, tmp_path: Path) -> None:
        pq.write_table(
            pa.table({"event_type": ["view"] * 50_000, "user_id": [f"u{n}" for n in range(50_000)]}),
            tmp_path / "a.parquet",
        )
        source = ReplaySource(tmp_path / "a.parquet", field_mapping({}))
        stream_id = stream_id_of(source.path)
        running = asyncio.create_task(replay(client, source))
        while stream_id not in model.streams or not model.streams[stream_id].events:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        result = await replay(client, source)
        assert model.stored(stream_id) == [f"u{n}" for n in range(50_000)]
        assert result.rows_skipped + result.rows_accepted == 50_000

    async def test_a_server_that_is_away(self, client: penstock.Client, model: ModelServer, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(TAOBAO)
        source = ReplaySource(tmp_path / "a.csv", PRESETS["taobao"])
        await model.stop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await replay(client, source)
        async with penstock.Client(model.target, timeout_s=0.3) as impatient:
            with pytest.raises(penstock.Unavailable):
                await replay(impatient, source)

    async def test_reasons_are_counted(self, client: penstock.Client, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("event_type,user_id\nview,u0\nview\n,u2\n")
        result = await replay(client, ReplaySource(tmp_path / "a.csv", field_mapping({})))
        assert (result.rows_accepted, result.rows_rejected) == (1, 2)
        assert result.reasons == {"MISSING_EVENT_TYPE": 2}

    async def test_now_moves_times_but_not_those_that_are_none(
        self, client: penstock.Client, model: ModelServer, tmp_path: Path
    ) -> None:
        (tmp_path / "a.csv").write_text(TAOBAO)
        source = ReplaySource(tmp_path / "a.csv", PRESETS["taobao"])
        await replay(client, source, ReplayOptions(now=True, site_id="live", limit=5))
        stored = model.streams[stream_id_of(source.path)].events
        assert stored[3].timestamp.seconds == pytest.approx(time.time(), abs=5)
        assert stored[3].timestamp.seconds - stored[0].timestamp.seconds == 10
        assert stored[4].timestamp.seconds == 15
        assert {event.site_id for event in stored} == {"live"}

    async def test_speed(self, client: penstock.Client, model: ModelServer, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(TAOBAO)
        source = ReplaySource(tmp_path / "a.csv", PRESETS["taobao"])
        started = time.perf_counter()
        await replay(client, source, ReplayOptions(speed=20))  # 10 s of events
        assert 0.45 <= time.perf_counter() - started < 9
        assert model.stored(stream_id_of(source.path)) == ["1", "2", "3", "4", "5"]

    async def test_times_are_needed_for_pacing(self, client: penstock.Client, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("event_type\nview\n")
        source = ReplaySource(tmp_path / "a.csv", field_mapping({}))
        with pytest.raises(ValueError, match="pacing needs times"):
            await replay(client, source, ReplayOptions(speed=1))
        with pytest.raises(ValueError, match="no times that could be moved"):
            await replay(client, source, ReplayOptions(now=True))
