"""Looking back: the rows of a table exactly as they were at a version."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from penstock import limits
from penstock.errors import InvalidInput, OutOfRange, invalid_field
from penstock.pipeline.filters import bound_value, condition, micros
from penstock.pipeline.tables import Kind, Table
from penstock.pipeline.tenants import last_of
from penstock.rpc.tokens import token, values_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.version import Version


@dataclass(frozen=True, slots=True)
class Moment:
    """A version by its number or by a time; neither is now."""

    version: int = 0
    time: datetime | None = None

    @property
    def is_now(self) -> bool:
        """Whether it names neither."""
        return not self.version and self.time is None


@dataclass(frozen=True, slots=True)
class DataPage:
    """Rows as of a version; with an empty token the last."""

    version: int
    time: datetime | None  # of the newest commit up to the version that concerns the tenant; None without one
    table: Table
    rows: Sequence[Row]
    next_token: str


async def resolve(engine: Engine, log: CommitLog, tenant: str, moment: Moment, fields: tuple[str, str]) -> Version:
    """The version that a moment names; `fields` are what the request calls number and time.

    A time names the last version at or before it that concerns the tenant: when others' were made is not told. Raises
    InvalidInput (INVALID_VERSION) where both are given, OutOfRange (VERSION_NOT_FOUND, VERSION_REMOVED).
    """
    if moment.version and moment.time is not None:
        raise invalid_field(fields[1], f"goes without {fields[0]}", reason="INVALID_VERSION")
    if moment.is_now:
        return log.version
    if moment.time is None:
        return await log.as_of(commit=moment.version, tenant=tenant)
    last = await last_of(engine, tenant, (await log.as_of(time=moment.time, tenant=tenant)).commit)
    if last is None:
        raise OutOfRange(
            f"there is no version at or before {moment.time.isoformat()}; the newest is {log.head}",
            reason="VERSION_NOT_FOUND",
        )
    return await log.as_of(commit=last[0], tenant=tenant)


class DataReader:
    """Reads tables as of a version."""

    def __init__(self, engine: Engine, log: CommitLog) -> None:
        self._engine = engine
        self._log = log

    async def page(
        self,
        tenant: str,
        table: Table,
        moment: Moment,
        *,
        asked: str = "",
        limit: int = 0,
        page_token: str = "",
    ) -> DataPage:
        """A page of the rows for which the filter `asked` holds.

        Raises InvalidInput for a filter or token that cannot be read, and as `resolve`.
        """
        size = limit or limits.PAGE_ROWS_DEFAULT
        kind = f"data:{table.name}:{hashlib.blake2s(asked.encode(), digest_size=6).hexdigest()}"
        chosen = condition(asked, table)
        behind = "1"
        keys: Mapping[str, int | float | str] = {}
        if page_token:
            number, behind, keys = _behind(tenant, table, kind, page_token)
            moment = Moment(version=number)
        version = await resolve(self._engine, self._log, tenant, moment, ("version", "timestamp"))
        parameters = {"tenant": tenant, "limit": size + 1, **chosen.parameters, **keys}
        sql = table.sql(version, f"{chosen.sql} AND {behind}", chosen.names)
        rows, last = await asyncio.gather(
            self._engine.rows(sql, parameters), last_of(self._engine, tenant, version.commit)
        )
        next_token = ""
        if len(rows) > size:
            next_token = token(tenant, kind, [version.commit, *(_key(rows[size - 1][name]) for name in table.order)])
        return DataPage(version.commit, last[1] if last is not None else None, table, rows[:size], next_token)


def _key(value: object) -> int | str:
    """A value of the order as a page token keeps it."""
    if isinstance(value, datetime):
        return micros(value.replace(tzinfo=UTC))
    if isinstance(value, date):
        return value.isoformat()
    return value if isinstance(value, int) else str(value)


def _behind(tenant: str, table: Table, kind: str, page_token: str) -> tuple[int, str, dict[str, int | float | str]]:
    """The version of a page token, and where the page begins: as SQL, and what that binds."""
    wrong = invalid_field(
        "page_token", "is not one that this method gave for this table and filter", reason="INVALID_PAGE_TOKEN"
    )
    kinds = [column.kind for name in table.order if (column := table.column(name)) is not None]
    shape = [int if each in (Kind.INTEGER, Kind.TIMESTAMP) else str for each in kinds]
    version, *values = values_of(tenant, kind, page_token, [int, *shape], wrong)
    bound: list[str] = []
    parameters: dict[str, int | float | str] = {}
    for nth, (each, value) in enumerate(zip(kinds, values, strict=True)):
        sql, said = _bound_key(each, value, f"key_{nth}", wrong)
        bound.append(sql)
        parameters[f"key_{nth}"] = said
    than = "<" if table.descending else ">"
    # The first column by itself is what the index finds the place by.
    behind = f"{table.order[0]} {than}= {bound[0]} AND ({', '.join(table.order)}) {than} ({', '.join(bound)})"
    return int(version), behind, parameters


def _bound_key(kind: Kind, value: int | str, name: str, wrong: InvalidInput) -> tuple[str, int | float | str]:
    if kind is Kind.TIMESTAMP:
        return f"fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')", value
    try:
        return bound_value(kind, str(value), name)
    except ValueError as error:
        raise wrong from error
