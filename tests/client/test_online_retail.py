"""A real year of a real shop, whole, through four streams whose connections break all the time."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import penstock_client
from penstock import Client
from penstock_client.replay_mapping import PRESETS
from tests.faults.proxy import Proxy
from tests.process import ServerProcess

FILE = Path(penstock_client.__file__).parent / "data" / "online_retail.parquet"
SITE = "online-retail"
STREAMS = 4
RESET_EVERY_S = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that counts in the shop's currency."""
    with ServerProcess(tmp_path_factory.mktemp("retail"), "--currency", "GBP") as running:
        yield running


async def send(target: str, stream: int, events: pa.Table) -> int:
    """Sends a part of the file; how often the connection had to be made again."""
    async with Client(target) as client, client.events.writer(f"retail-{stream}") as writer:
        await writer.send_arrow(events, batch_rows=1_000)
        await writer.flush()
        assert writer.next_offset == events.num_rows
        return writer.stats.connections - 1


async def break_connections(proxy: Proxy) -> None:
    while True:
        await asyncio.sleep(RESET_EVERY_S)
        proxy.reset()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_row_arrives_once_and_the_sums_are_those_of_the_file(server: ServerProcess) -> None:
    rows = pq.read_table(FILE)
    assert rows.num_rows == 370_931
    mapping = PRESETS["online-retail"]
    assert mapping.times is not None
    events = mapping.events(rows, mapping.times(rows))
    part = -(-events.num_rows // STREAMS)
    async with Proxy(seed=0) as proxy:
        proxy.upstream = int(str(server.ready["grpc_port"]))
        breaking = asyncio.create_task(break_connections(proxy))
        reconnects = await asyncio.gather(
            *(send(proxy.target, n, events.slice(n * part, part)) for n in range(STREAMS))
        )
        breaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await breaking
    assert sum(reconnects) >= STREAMS

    async with Client(server.target) as client:
        await client.pipeline.run()
        counts = await client.events.count(site_id=SITE)
        metrics = await client.kpis.metrics(site_id=SITE, window=timedelta(days=366))
    cancelled = pc.starts_with(rows["InvoiceNo"], "C")
    sold = rows.filter(pc.invert(cancelled))
    assert dict(counts.counts) == {"purchase": sold.num_rows, "refund": rows.num_rows - sold.num_rows}
    year = metrics.latest_kpis
    assert year.orders == pc.count_distinct(sold["InvoiceNo"]).as_py()
    assert year.purchase_users == pc.count_distinct(sold["CustomerID"], mode="only_valid").as_py()
    assert year.active_users == pc.count_distinct(rows["CustomerID"], mode="only_valid").as_py()
    assert cents(year.gmv) == cents(value(sold))
    assert cents(year.refunds) == cents(value(rows.filter(cancelled)))


def value(rows: pa.Table) -> Decimal:
    """Σ price × quantity, exactly."""
    prices = (Decimal(str(price)) for price in rows["UnitPrice"].to_pylist())
    return sum(
        (price * quantity for price, quantity in zip(prices, rows["Quantity"].to_pylist(), strict=True)), Decimal(0)
    )


def cents(amount: float | Decimal) -> Decimal:
    return Decimal(amount).quantize(Decimal("0.01"))
