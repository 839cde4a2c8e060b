"""The newest minute that has events: what windows of the latest KPIs, and all series, end with."""

from penstock import limits
from penstock.kpis.answers import Answers
from penstock.storage.engine import Engine
from penstock.storage.version import Version

MINUTE = 60
END_OF_TIME = 4_294_967_220  # the last whole minute of ClickHouse's DateTime

_NEWEST = """
SELECT toUnixTimestamp(minute) AS newest
FROM gold_events
WHERE tenant = {{tenant:String}} AND {visible} AND ({{site:String}} = '' OR site_id = {{site:String}})
    AND minute <= toDateTime({{until:UInt32}}, 'UTC')
ORDER BY minute DESC
LIMIT 1
"""


class NewestMinutes:
    """Looks them up, each once a version of gold: a dashboard asks many questions of one site as soon as gold moves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._found: Answers[int | None] = Answers(limits.KPI_ANSWERS_MAX)

    async def of(self, tenant: str, site: str, version: Version, now: float) -> int | None:
        """The newest minute of a tenant's site, with "" of all its sites; None without one. Seconds since the epoch.

        Minutes ahead of `now` count only when there are no others: one skewed client must not hide what happens now.
        Raises Unavailable, TimedOut or Overloaded.
        """
        if not version.gold.run:
            return None
        bound = int(now) // MINUTE * MINUTE

        async def look() -> int | None:
            for until in (bound, END_OF_TIME):
                newest = await self._look(tenant, site, version, until)
                if newest is not None:
                    return newest
            return None

        # Of a version only what gold shows, so that a commit that is not in gold yet makes nothing be looked up anew.
        return await self._found.get((version.gold, version.cuts, bound), (tenant, site), look)

    async def _look(self, tenant: str, site: str, version: Version, until: int) -> int | None:
        sql = _NEWEST.format(visible=version.visible("gold_events"))
        found = await self._engine.rows(sql, {"tenant": tenant, "site": site, "until": until})
        return int(found[0]["newest"]) if found else None
