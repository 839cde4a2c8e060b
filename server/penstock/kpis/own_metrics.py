"""Metrics that tenants declare themselves: kept in the database, append-only, of each name the newest row counts."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import structlog

from penstock import limits
from penstock.errors import AlreadyStored, Conflict, Overloaded, invalid_field
from penstock.kpis import formula
from penstock.kpis.catalog import Catalog, CatalogError, Declaration, Metric, metric_of
from penstock.kpis.grain import of as micros_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Lane, Row

log = structlog.get_logger()

_READ = """
SELECT name, declaration, changed
FROM
(
    SELECT name, declaration, changed, deleted
    FROM own_metrics
    WHERE tenant = {tenant:String}
    ORDER BY name, changed DESC
    LIMIT 1 BY name
)
WHERE NOT deleted
ORDER BY name
"""
_NEWEST = "SELECT toUnixTimestamp64Micro(max(changed)) AS newest FROM own_metrics WHERE tenant = {tenant:String}"

_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("name", pa.string()),
        ("changed", pa.timestamp("us", tz="UTC")),
        ("declaration", pa.string()),
        ("deleted", pa.uint8()),
    ]
)


@dataclass(slots=True)
class _Known:
    """A tenant's catalogue, as it was last read."""

    catalog: Catalog
    newest: int  # microseconds: when the newest of its rows was made
    epoch: int  # of the commit log then: in a new one another server may have written before
    read_at: float


class Catalogs:
    """The catalogue of each tenant: what comes with Penstock, and its own."""

    def __init__(
        self, engine: Engine, commit_log: CommitLog, built_in: Catalog, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._log = commit_log
        self._built_in = built_in
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._lock = asyncio.Lock()

    async def of(self, tenant: str) -> Catalog:
        """The tenant's catalogue. Where another server writes, its changes come OWN_KPIS_REFRESH_S late at most."""
        known = self._known.get(tenant)
        if known is None or not self._is_current(known):
            async with self._lock:
                known = await self._refreshed(tenant)
        return known.catalog

    def newest(self, tenant: str) -> int | None:
        """Names the state of the tenant's catalogue; None where it has to be read first, see `of`."""
        known = self._known.get(tenant)
        return known.newest if known is not None and self._is_current(known) else None

    async def create(self, tenant: str, declared: Declaration) -> Metric:
        """Adds a metric; one that is there already and equal is answered as it is.

        Raises InvalidInput, AlreadyStored (KPI_EXISTS), Overloaded (TOO_MANY_KPIS), Unavailable.
        """
        async with self._changing(tenant) as known:
            there = known.catalog.metrics.get(declared.name)
            if there is not None and not there.own:
                raise invalid_field("kpi.name", f"{declared.name} comes with Penstock")
            if there is not None:
                if declaration_of(there) == declared:
                    return there
                raise AlreadyStored(f"metric {declared.name} is there already", reason="KPI_EXISTS")
            if len(known.catalog.own) >= limits.OWN_KPIS_MAX:
                raise Overloaded(f"{limits.OWN_KPIS_MAX} metrics of your own are the most", reason="TOO_MANY_KPIS")
            return await self._write(tenant, known, declared)

    async def update(self, tenant: str, name: str, change: Callable[[Declaration], Declaration]) -> Metric:
        """Changes a metric to what `change` makes of it. Raises as `create`, NotFound, Conflict (KPI_BUILT_IN)."""
        async with self._changing(tenant) as known:
            return await self._write(tenant, known, change(declaration_of(self._own(known.catalog, name))))

    async def delete(self, tenant: str, name: str) -> None:
        """Removes a metric. Raises NotFound, Conflict (KPI_BUILT_IN, KPI_IN_USE), Unavailable."""
        async with self._changing(tenant) as known:
            metric = self._own(known.catalog, name)
            users = [each.name for each in known.catalog.own.values() if _uses(each, name)]
            if users:
                raise Conflict(f"{name} is what {', '.join(users)} is made of", reason="KPI_IN_USE")
            catalog = known.catalog.with_own(_without(known.catalog, name))
            await self._append(tenant, declaration_of(metric), self._moment(known), catalog, deleted=True)

    @asynccontextmanager
    async def _changing(self, tenant: str) -> AsyncIterator[_Known]:
        """One change at a time, by the server that writes, on what is stored now."""
        self._log.check_leads()
        async with self._lock:
            yield await self._refreshed(tenant)

    def _is_current(self, known: _Known) -> bool:
        if self._log.leads and known.epoch == self._log.epoch:
            return True  # nobody else writes
        return self._clock() - known.read_at < limits.OWN_KPIS_REFRESH_S

    async def _refreshed(self, tenant: str) -> _Known:
        known = self._known.get(tenant)
        if known is not None and self._is_current(known):
            return known
        epoch, read_at = self._log.epoch, self._clock()
        newest = int((await self._engine.rows(_NEWEST, {"tenant": tenant}))[0]["newest"])
        catalog = known.catalog if known is not None else self._built_in
        if newest and (known is None or newest != known.newest):
            catalog = self._catalog_of(tenant, await self._engine.rows(_READ, {"tenant": tenant}))
        self._known[tenant] = found = _Known(catalog, newest, epoch, read_at)
        return found

    def _catalog_of(self, tenant: str, rows: list[Row]) -> Catalog:
        """The catalogue with these rows. One that a later version no longer understands is left out, and logged."""
        metrics: dict[str, Metric] = {}
        for row in rows:
            try:
                declared = Declaration.model_validate_json(row["declaration"])
                metrics[declared.name] = metric_of(declared, own=True, update_time=row["changed"].replace(tzinfo=UTC))
            except ValueError as error:
                log.error("a metric cannot be read", tenant=tenant, metric=row["name"], error=str(error))
        while True:
            try:
                return self._built_in.with_own(metrics.values())
            except CatalogError as error:
                log.error("a metric cannot be used", tenant=tenant, error=str(error))
                del metrics[error.metric]

    def _own(self, catalog: Catalog, name: str) -> Metric:
        metric = catalog.metric(name)
        if not metric.own:
            raise Conflict(f"{name} comes with Penstock and stays as it is", reason="KPI_BUILT_IN")
        return metric

    async def _write(self, tenant: str, known: _Known, declared: Declaration) -> Metric:
        changed = self._moment(known)
        try:
            metric = metric_of(declared, own=True, update_time=changed)
            catalog = known.catalog.with_own([*_without(known.catalog, metric.name), metric])
        except CatalogError as error:
            raise invalid_field(f"kpi.{error.field}", str(error)) from error
        await self._append(tenant, declared, changed, catalog, deleted=False)
        return metric

    async def _append(
        self, tenant: str, declared: Declaration, changed: datetime, catalog: Catalog, *, deleted: bool
    ) -> None:
        row = {
            "tenant": tenant,
            "name": declared.name,
            "changed": changed,
            "declaration": declared.model_dump_json(),
            "deleted": int(deleted),
        }
        # Until the answer is there nobody knows what is stored: it is read again before anything else.
        self._known.pop(tenant, None)
        epoch = self._log.epoch
        await self._engine.insert_arrow("own_metrics", pa.Table.from_pylist([row], _SCHEMA), lane=Lane.COMMIT)
        self._known[tenant] = _Known(catalog, micros_of(changed), epoch, self._clock())

    def _moment(self, known: _Known) -> datetime:
        """Now, or behind the newest row where the clock was put back."""
        return max(datetime.now(UTC), datetime.fromtimestamp(0, UTC) + timedelta(microseconds=known.newest + 1))


def declaration_of(metric: Metric) -> Declaration:
    """What the metric was declared as."""
    return Declaration(**{name: getattr(metric, name) for name in Declaration.model_fields})


def _without(catalog: Catalog, name: str) -> list[Metric]:
    return [metric for metric in catalog.own.values() if metric.name != name]


def _uses(metric: Metric, name: str) -> bool:
    return formula.Metric(name) in formula.parts(metric.formula)
