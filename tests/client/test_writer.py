"""The writer against a model of the server that fails on demand."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest

import penstock
from tests.client.model_server import ModelServer


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A model server."""
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def client(model: ModelServer) -> AsyncIterator[penstock.Client]:
    """A client of it."""
    async with penstock.Client(model.target, timeout_s=5, retry_total_s=10) as opened:
        yield opened


def row(n: int, event_type: str = "page_view") -> penstock.Event:
    """An event that tells its number."""
    return penstock.event(event_type, user_id=f"u{n}")


def users(count: int) -> list[str]:
    """What the rows 0 to count are stored as."""
    return [f"u{n}" for n in range(count)]


async def send(writer: penstock.Writer, first: int, last: int) -> None:
    """Sends rows numbered first to last, exclusive."""
    for n in range(first, last):
        await writer.send(row(n))


class TestSending:
    async def test_rows_arrive_in_order(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 95)
            assert writer.next_offset == 95
            await writer.flush()
            assert writer.stored_offset == 95
        assert model.stored("s") == users(95)
        assert model.requests == 10
        assert writer.stats.rows_accepted == 95

    async def test_rows_are_given_in_three_ways(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s") as writer:
            await writer.send(row(0))
            await writer.send({"event_type": "page_view", "user_id": "u1"})
            await writer.send(event_type="page_view", user_id="u2")
            await writer.send_batch([row(3), {"event_type": "page_view", "user_id": "u4"}])
            with pytest.raises(TypeError):
                await writer.send(row(5), user_id="u5")
            with pytest.raises(TypeError):
                await writer.send(event_type="page_view", usr_id="u5")
        assert model.stored("s") == users(5)

    async def test_an_event_may_be_changed_after_it_was_sent(self, client: penstock.Client, model: ModelServer) -> None:
        event = row(0)
        async with client.events.writer("s") as writer:
            await writer.send(event)
            event.user_id = "changed"
        assert model.stored("s") == users(1)

    async def test_a_batch_goes_out_after_a_while_by_itself(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", batch_delay_s=0.01) as writer:
            acks = writer.acks()
            await writer.send(row(0))
            ack = await asyncio.wait_for(anext(acks), 2)
            assert (ack.offset, ack.rows, ack.accepted_rows) == (0, 1, 1)

    async def test_a_batch_is_bounded_in_bytes(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", batch_bytes=1_000) as writer:
            for n in range(20):
                await writer.send(event_type="page_view", user_id=f"u{n}", url="x" * 300)
        assert model.stored("s") == users(20)
        assert max(model.requests_sizes) <= 1_020

    async def test_an_event_that_no_request_can_hold_is_refused_at_once(self, client: penstock.Client) -> None:
        async with client.events.writer("s") as writer:
            with pytest.raises(penstock.InvalidRequest, match="EVENT_TOO_LARGE"):
                await writer.send(event_type="page_view", url="x" * (5 << 20))
            await writer.send(row(0))

    async def test_many_tasks_may_send(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", batch_rows=7) as writer:
            await asyncio.gather(*(send(writer, n, n + 50) for n in range(0, 500, 50)))
        assert sorted(model.stored("s")) == sorted(users(500))

    async def test_credentials_go_with_the_stream(self, model: ModelServer) -> None:
        async with penstock.Client(model.target, api_key="k") as client, client.events.writer("s"):
            assert model.metadata["authorization"] == "Bearer k"

    async def test_the_default_stream_has_no_offsets(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer() as writer:
            await send(writer, 0, 5)
        assert [event.user_id for event in model.default] == users(5)


class TestColumns:
    async def test_a_table_goes_as_columns_of_bounded_size(self, client: penstock.Client, model: ModelServer) -> None:
        table = pa.table({"event_type": ["page_view"] * 2_500, "user_id": users(2_500)})
        async with client.events.writer("s") as writer:
            await writer.send_arrow(table, batch_rows=1_000)
        assert model.stored("s") == users(2_500)
        assert model.requests == 3

    async def test_rows_and_columns_keep_their_order(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s") as writer:
            await writer.send(row(0))
            await writer.send_arrow(pa.table({"event_type": ["page_view"], "user_id": ["u1"]}))
            await writer.send(row(2))
        assert model.stored("s") == users(3)

    async def test_columns_go_in_every_form(self, client: penstock.Client, model: ModelServer) -> None:
        pandas = pytest.importorskip("pandas")
        columns: dict[str, Any] = {"event_type": ["page_view"], "user_id": ["u"], "shelf": [7]}
        table = pa.table(columns)
        async with client.events.writer("s") as writer:
            await writer.send_arrow(table.to_batches()[0])
            await writer.send_arrow(pa.RecordBatchReader.from_batches(table.schema, table.to_batches()))
            await writer.send_arrow(table, compression="zstd")
            await writer.send_dataframe(pandas.DataFrame(columns, index=[99]))
        assert [dict(event.properties) for event in model.streams["s"].events] == [{"shelf": "7"}] * 4

    async def test_a_column_batch_is_cut_where_the_server_has_part_of_it(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        model.faults.drop_after_store.append(1)
        model.faults.store_only_rows = 300
        table = pa.table({"event_type": ["page_view"] * 1_000, "user_id": users(1_000)})
        async with client.events.writer("s") as writer:
            await writer.send_arrow(table)
        assert model.stored("s") == users(1_000)
        assert writer.stats.rows_already_stored == 300


class TestBrokenConnections:
    async def test_what_was_not_stored_is_sent_again(self, client: penstock.Client, model: ModelServer) -> None:
        model.faults.drop_before_store.extend([3, 2])
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 200)
        assert model.stored("s") == users(200)
        assert model.connections == 3

    async def test_what_was_stored_but_not_acknowledged_is_not(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        model.faults.drop_after_store.extend([3, 2])
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 200)
        assert model.stored("s") == users(200)
        assert writer.stats.rows_already_stored >= 20
        assert writer.stats.rows_accepted == 200

    async def test_a_batch_that_was_stored_in_part_is_trimmed(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        model.faults.drop_after_store.append(2)
        model.faults.store_only_rows = 4
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 50)
        assert model.stored("s") == users(50)

    async def test_the_default_stream_sends_again_what_was_not_answered(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        model.faults.drop_after_store.append(1)
        async with client.events.writer(batch_rows=10) as writer:
            await send(writer, 0, 30)
        assert {event.user_id for event in model.default} == set(users(30))

    async def test_a_server_that_dies_and_comes_back(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 50)
            await writer.flush()
            await model.stop()
            sending = asyncio.create_task(send(writer, 50, 150))
            await asyncio.sleep(0.3)
            await model.start()
            await sending
        assert model.stored("s") == users(150)

    async def test_giving_up_after_the_total_bound(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", retry_total_s=0.5) as writer:
            await model.stop()
            await writer.send(row(0))
            with pytest.raises(penstock.Unavailable):
                await writer.flush()
            with pytest.raises(penstock.Unavailable):
                await writer.send(row(1))
            await writer.abort()

    async def test_an_idle_writer_outlives_a_server_that_is_long_away(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        async with client.events.writer("s", retry_total_s=0.4) as writer:
            await writer.send(row(0))
            await writer.flush()
            await model.stop()
            await asyncio.sleep(0.8)
            await model.start()
            await writer.send(row(1))
            await writer.flush()
        assert model.stored("s") == users(2)

    async def test_a_drained_server_is_left_for_the_next(self, client: penstock.Client, model: ModelServer) -> None:
        model.faults.drain_after = 3
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 100)
        assert model.stored("s") == users(100)
        assert model.connections == 2

    async def test_a_crashed_program_goes_on_at_next_offset(self, client: penstock.Client, model: ModelServer) -> None:
        writer = client.events.writer("s", batch_rows=10)
        await writer.open()
        await send(writer, 0, 35)
        await asyncio.sleep(0.02)
        await writer.abort()
        async with client.events.writer("s") as resumed:
            assert resumed.next_offset == len(model.streams["s"].events)
            await send(resumed, resumed.next_offset, 60)
        assert model.stored("s") == users(60)

    async def test_opening_waits_for_a_server_that_is_starting(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        model.faults.refuse_opening = 2
        async with client.events.writer("s") as writer:
            assert writer.next_offset == 0

    async def test_opening_gives_up_with_what_went_wrong(self, model: ModelServer) -> None:
        async with penstock.Client(model.target, timeout_s=0.5) as client:
            await model.stop()
            with pytest.raises(penstock.Unavailable):
                await client.events.writer("s").open()


class TestRefusals:
    async def test_an_overloaded_server_is_given_time(self, client: penstock.Client, model: ModelServer) -> None:
        model.faults.overloaded = 3
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 200)
        assert model.stored("s") == users(200)

    async def test_an_overloaded_default_stream_loses_nothing(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        model.faults.overloaded = 3
        async with client.events.writer(batch_rows=10) as writer:
            await send(writer, 0, 200)
        assert sorted(event.user_id for event in model.default) == sorted(users(200))

    async def test_a_server_that_is_overloaded_for_good(self, client: penstock.Client, model: ModelServer) -> None:
        model.faults.overloaded = 1_000_000
        writer = client.events.writer("s", retry_total_s=0.3)
        await writer.open()
        await writer.send(row(0))
        with pytest.raises(penstock.Overloaded):
            await writer.flush()
        await writer.abort()

    async def test_a_commit_in_doubt_is_not_stored_twice(self, client: penstock.Client, model: ModelServer) -> None:
        model.faults.doubtful = 2
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 200)
        assert model.stored("s") == users(200)

    async def test_a_bad_row_keeps_its_batch_out_and_the_rest_moves_up(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        model.faults.hold.clear()  # so that the batches behind the refused one are on their way before its answer
        async with client.events.writer("s", batch_rows=10) as writer:
            await send(writer, 0, 13)
            await writer.send(row(13, event_type=""))
            await send(writer, 14, 60)
            await asyncio.sleep(0.1)
            model.faults.hold.set()
            with pytest.raises(penstock.RowsRejected) as refusal:
                await writer.flush()
            assert [each.index for each in refusal.value.rejected] == [3]
            assert refusal.value.rejected[0].reason == "MISSING_EVENT_TYPE"
            assert [event.user_id for event in refusal.value.events()] == [f"u{n}" for n in range(10, 20)]
            assert writer.next_offset == 50
            mended = [event for event in refusal.value.events() if event.event_type]
            await writer.send_batch(mended)
            await writer.flush()
        good = [n for n in range(60) if not 10 <= n < 20]
        assert model.stored("s") == [f"u{n}" for n in [*good, *(n for n in range(10, 20) if n != 13)]]
        assert writer.stats.rows_refused == 10

    async def test_several_refusals_are_raised_as_one(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", batch_rows=1) as writer:
            for n in range(6):
                await writer.send(row(n, event_type="" if n % 2 else "page_view"))
            with pytest.raises(penstock.RowsRejected) as refusal:
                await writer.flush()
            assert len(refusal.value.others) == 2
            await writer.flush()
        assert model.stored("s") == ["u0", "u2", "u4"]

    async def test_refused_columns_are_given_back_too(self, client: penstock.Client, model: ModelServer) -> None:
        writer = client.events.writer("s")
        await writer.open()
        await writer.send_arrow(pa.table({"event_type": ["page_view", ""], "user_id": users(2), "price": [1.5, None]}))
        with pytest.raises(penstock.RowsRejected) as refusal:
            await writer.close()
        assert [event.user_id for event in refusal.value.events()] == users(2)

    async def test_acks_carry_refusals_in_place_of_flush(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", batch_rows=2) as writer:
            acks = writer.acks()
            await writer.send(row(0, event_type=""))
            await send(writer, 1, 4)
            await writer.flush()
        answers = [ack async for ack in acks]
        assert [(ack.rows, ack.accepted_rows, ack.error is not None) for ack in answers] == [
            (2, 0, True),
            (2, 2, False),
        ]

    async def test_keep_good_reports_the_bad_rows(self, client: penstock.Client, model: ModelServer) -> None:
        async with client.events.writer("s", row_policy="keep_good") as writer:
            acks = writer.acks()
            await send(writer, 0, 3)
            await writer.send(row(3, event_type=""))
            await writer.flush()
            ack = await anext(acks)
        assert (ack.rows, ack.accepted_rows, ack.rejected_rows) == (4, 3, 1)
        assert ack.rejected == (penstock.RejectedRow(3, "MISSING_EVENT_TYPE", ""),)
        assert writer.next_offset == 4
        assert writer.stats.rows_rejected == 1

    async def test_durability_that_is_not_offered(self, client: penstock.Client) -> None:
        with pytest.raises(penstock.Conflict) as refusal:
            await client.events.writer("s", min_durability="durable").open()
        assert refusal.value.reason == "DURABILITY_NOT_OFFERED"


class TestTakingOver:
    async def test_the_older_writer_is_told(self, client: penstock.Client, model: ModelServer) -> None:
        older = client.events.writer("s")
        await older.open()
        await older.send(row(0))
        await older.flush()
        async with client.events.writer("s") as newer:
            await newer.send(row(1))
            await newer.flush()
            with pytest.raises(penstock.StreamTakenOver):  # noqa: PT012
                await older.send(row(99))
                await older.flush()
        assert model.stored("s") == users(2)
        await older.abort()

    async def test_rows_of_another_writer_are_noticed_after_a_reconnect(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        writer = client.events.writer("s")
        await writer.open()
        await writer.send(row(0))
        await writer.flush()
        await model.stop()
        await asyncio.sleep(0.1)  # until the writer has noticed: rows under way then could not be told from the others
        model.streams["s"].events.append(row(1))
        await model.start()
        await writer.send(row(99))
        with pytest.raises(penstock.StreamTakenOver):
            await writer.flush()
        await writer.abort()
        assert model.stored("s") == users(2)

    async def test_a_server_that_lost_acknowledged_rows_is_not_trusted(
        self, client: penstock.Client, model: ModelServer
    ) -> None:
        writer = client.events.writer("s")
        await writer.open()
        await send(writer, 0, 5)
        await writer.flush()
        await model.stop()
        del model.streams["s"].events[3:]
        await model.start()
        await writer.send(row(5))
        with pytest.raises(penstock.ServerFault) as fault:
            await writer.flush()
        assert fault.value.reason == "ACKNOWLEDGED_ROWS_LOST"
        await writer.abort()


class TestBounds:
    @pytest.mark.parametrize(("requests", "size"), [(3, 4 << 20), (64, 2_000)])
    async def test_no_more_is_outstanding_than_announced(self, requests: int, size: int) -> None:
        async with (
            ModelServer(max_outstanding_requests=requests, max_outstanding_bytes=size) as model,
            penstock.Client(model.target) as client,
            client.events.writer("s", batch_rows=10) as writer,
        ):
            model.faults.hold.clear()
            sending = asyncio.create_task(send(writer, 0, 1_000))
            await asyncio.sleep(0.2)
            assert not sending.done()
            assert writer.next_offset <= 10 * (min(requests, size // 150 + 1) + 2)
            model.faults.hold.set()
            await sending
            await writer.flush()
            assert model.outstanding_max <= min(requests, size // 100)
            assert model.stored("s") == users(1_000)

    async def test_bounds_that_are_lowered_hold_for_what_is_queued(self) -> None:
        async with (
            ModelServer() as model,
            penstock.Client(model.target) as client,
            client.events.writer("s", batch_rows=100) as writer,
        ):
            model.change_flow_after = 1
            model.flow = {**model.flow, "max_request_rows": 10, "max_outstanding_requests": 2}
            await send(writer, 0, 100)
            await writer.flush()
            await send(writer, 100, 500)
            await writer.flush()
            assert model.stored("s") == users(500)
            assert model.requests == 51  # the first is refused and comes again in ten pieces

    async def test_unread_acks_neither_block_nor_grow(self, client: penstock.Client) -> None:
        async with client.events.writer("s", batch_rows=1) as writer:
            acks = writer.acks()
            await send(writer, 0, 3_000)
            await writer.flush()
        answers = [ack async for ack in acks]
        assert len(answers) == 1_000
        assert sum(ack.accepted_rows for ack in answers) == 3_000

    async def test_leaving_by_an_exception_does_not_wait(self, client: penstock.Client, model: ModelServer) -> None:
        model.faults.hold.clear()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with asyncio.timeout(2), client.events.writer("s") as writer:
                await writer.send(row(0))
                raise ZeroDivisionError
        with pytest.raises(penstock.WriterClosed):
            await writer.send(row(1))
