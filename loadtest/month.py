"""A month of a shop's events, 5 million of them, in a data folder that the real pipeline has brought into gold.

The engine draws the rows itself from one seed: 31 days with a daily rhythm, 150,000 visitors, 2,000 products, three
sites, devices, countries and campaigns, in visits of eight events. Sending them through a server would take minutes and
end in the same tables. The folder is made once and kept in `loadtest/month/`, because many benchmarks read it; it is
named by what made it, so a change of the schema or of this file makes a new one. `rm -r loadtest/month` removes it.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from loadtest.kept import in_own_process, kept_folder
from loadtest.scale import Scale
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import Advance, CommitLog, Entry
from penstock.storage.engine import Lane, open_engine
from penstock.storage.schema import migrate

START = datetime(2026, 3, 1, tzinfo=UTC)  # a whole month, with Europe's change to summer time in it
END = datetime(2026, 4, 1, tzinfo=UTC)
SITES = ("shop.example", "shop.example/de", "outlet.example")
FOLDER = Path(__file__).parent / "month"
COMMIT_ROWS = 250_000

# Chance comes from a hash of the row's number, so that the same number is the same row. A visitor comes back: the
# square makes few of them busy and many rare. The hour's share follows a sine with its top in the evening.
_ROWS = """
INSERT INTO bronze_events
(
    tenant, commit, stream_id, offset, event_id, event_type, event_time, visitor_id, user_id, session_id, site_id,
    product_id, order_id, price, quantity, currency, path, referrer, utm_source, utm_medium, utm_campaign, properties,
    ingest_time, user_agent
)
WITH
    intDiv(number, 8) AS visit,
    cityHash64(number, 1) AS a,
    cityHash64(number, 2) AS b,
    cityHash64(visit, 3) AS c,
    cityHash64(visit, 4) AS d,
    (a % 1000000) / 1000000 AS chance,
    intDiv(visit * 8 * 31, {events:UInt64}) AS day,
    (d % 86000) / 86400 AS at,
    toUInt64(86000 * (at + 0.12 * sin(2 * pi() * (at + 0.1)))) % 86000 + number % 8 * 45 AS second,
    toUInt64(150000 * pow((c % 1000003) / 1000003, 2)) AS visitor,
    toDateTime64({start:UInt32} + day * 86400 + second, 6, 'UTC') + toIntervalMicrosecond(a % 1000000) AS time,
    multiIf(chance < 0.8, 'page_view', chance < 0.95, 'add_to_cart', 'purchase') AS kind,
    ['shop.example', 'shop.example', 'shop.example/de', 'outlet.example'][1 + visitor % 4] AS site
SELECT
    'default',
    {commit:Int64},
    'month',
    number,
    reinterpret(bitShiftLeft(toUInt128(a), 64) + bitShiftLeft(toUnixTimestamp64Milli(time), 16), 'UUID'),
    kind,
    time,
    concat('visitor-', toString(visitor)),
    if(visitor % 3 = 0, concat('user-', toString(visitor)), ''),
    '',
    site,
    concat('product-', toString(b % 2000)),
    if(kind = 'purchase', concat('order-', toString(visit)), ''),
    if(kind = 'page_view', NULL, toDecimal64(1 + c % 20000 / 100, 6)),
    if(kind = 'page_view', NULL, toInt32(1 + a % 3)),
    'USD',
    concat('/p/', toString(b % 2000)),
    ['', 'https://search.example/', 'https://news.example/shoes'][1 + c % 3],
    ['', '', 'newsletter', 'search', 'social', 'partner'][1 + visitor % 6],
    if(visitor % 6 < 2, '', 'cpc'),
    if(visitor % 6 < 2, '', concat('campaign-', toString(visitor % 12))),
    map('country', ['DE', 'GB', 'FR', 'US', 'NL', 'SE', 'IT', 'ES', 'PL', 'AT', 'CH', 'DK'][1 + visitor % 12],
        'experiment', ['a', 'b'][1 + visitor % 2]),
    {time:DateTime64(6, 'UTC')},
    ['Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/141.0', 'Mozilla/5.0 (iPhone; CPU iPhone OS 19_0) Mobile Safari',
     'Mozilla/5.0 (Linux; Android 16; Tablet) Chrome/141.0'][1 + visitor % 3]
FROM numbers({first:UInt64}, {rows:UInt64})
"""


def month(scale: Scale) -> Path:
    """A data folder with `scale.events` events; only one process at a time may open it. Blocks while it is made."""
    made_by = [Path(__file__).read_text("utf-8"), str(scale.events)]
    return kept_folder(FOLDER, "", made_by, lambda partial: in_own_process(_make, partial, scale.events))


def _make(folder: Path, events: int) -> None:
    asyncio.run(_fill(folder, events))


async def _fill(folder: Path, events: int) -> None:
    settings = Settings.model_validate({"data_dir": folder, "fsync": False})
    engine = open_engine(settings)
    try:
        await migrate(engine, settings)
        log = CommitLog(engine)
        await log.open()
        for first in range(0, events, COMMIT_ROWS):
            rows = min(COMMIT_ROWS, events - first)
            async with log.transaction() as transaction:
                bounds = {
                    "events": events, "first": first, "rows": rows, "start": int(START.timestamp()),
                    "commit": transaction.commit, "time": transaction.time.strftime("%Y-%m-%d %H:%M:%S.%f"),
                }  # fmt: skip
                await engine.execute(_ROWS, bounds, lane=Lane.COMMIT)
                advance = Advance("default", "month", first, first + rows, rows, 0)
                await transaction.append(Entry("append", rows=rows, streams=[advance]))
        runner = PipelineRunner(engine, log, settings)
        await runner.open()
        await runner.run()
    finally:
        await engine.close()
