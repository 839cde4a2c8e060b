"""Loads a file of products into the catalogue. Needs `penstock-client[replay]`.

Rows become lines of JSON, which the server reads as it reads any feed. Loading a file again writes only what changed.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penstock_client.client import Client
from penstock_client.product_mapping import (
    PRODUCT_PRESETS,
    Fields,
    ProductMapping,
    Row,
    finite,
    parse_product_mapping,
    product_mapping,
)
from penstock_client.replay_files import MALFORMED, chunks

__all__ = [
    "PRODUCT_PRESETS",
    "LoadProgress",
    "LoadResult",
    "ProductMapping",
    "ProductSource",
    "RejectedProduct",
    "load_products",
    "parse_product_mapping",
    "product_mapping",
]

BATCH_ROWS = 2_000  # of one upload: as many as the server makes a commit of
BATCH_BYTES = 8 * 1024 * 1024  # of one upload, which is kept whole to be sent again
LINE_BYTES_MAX = 1024 * 1024  # the server's bound: a longer line would end the upload
REJECTED_KEPT = 100  # of the rows that were no products, for showing
# Columns that hold structure, which text formats have as JSON.
_STRUCTURED = frozenset(("attributes", "fashion", "category_path", "category", "categories", "categoryPath"))
_ID = ("product_id", "productId", "id")


@dataclass(frozen=True, slots=True)
class RejectedProduct:
    """A row that is no product."""

    line: int  # where it begins in the file, from 1; in Parquet the number of the row
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is; told after every batch."""

    fraction: float  # of the file that is read, from 0 to 1
    rows: int  # that were stored, left out or rejected


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load did."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    repeated: int = 0  # rows that were left out, because one before them has the same id
    rejected: int = 0
    errors: Sequence[RejectedProduct] = ()  # the first of the rejected rows
    commit: int = 0  # the last; 0 when nothing had to be written

    @property
    def rows(self) -> int:
        """All that were read."""
        return self.created + self.updated + self.unchanged + self.repeated + self.rejected


@dataclass(slots=True)
class Batch:
    """Lines for one upload, and what was found of the rows among them that are not sent."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # where each line comes from
    rejected: list[RejectedProduct] = field(default_factory=list)
    repeated: int = 0
    fraction: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True)
class ProductSource:
    """A file, and what its rows mean."""

    path: Path
    mapping: ProductMapping

    def batches(self) -> Iterator[Batch]:
        """The products in lines of JSON, each id once; raises ValueError where file and mapping do not fit.

        Of products that are made of all rows together the number is that of the product, and not of a row.
        """
        batch, seen = Batch(), set[str]()
        rows = self._rows() if self.mapping.whole is None else self._whole(self.mapping.whole)
        for number, fields, fraction in rows:
            _add(batch, seen, number, fields)
            batch.fraction = fraction
            if len(batch.lines) >= BATCH_ROWS or batch.size >= BATCH_BYTES or len(batch.rejected) >= BATCH_ROWS:
                yield batch
                batch = Batch()
        batch.fraction = 1.0
        yield batch

    def _rows(self) -> Iterator[tuple[int, Fields | RejectedProduct, float]]:
        for number, row, fraction in self._raw():
            yield number, row if isinstance(row, RejectedProduct) else self._fields(row), fraction

    def _fields(self, row: Row) -> Fields:
        try:
            return self.mapping.each(row)
        except KeyError as error:
            raise ValueError(f"{self.path.name} has no column {error}; it has {', '.join(row)}") from None

    def _whole(
        self, make: Callable[[Iterable[Row]], Iterator[Fields]]
    ) -> Iterator[tuple[int, Fields | RejectedProduct, float]]:
        malformed: list[RejectedProduct] = []

        def rows() -> Iterator[Row]:
            for _, row, _ in self._raw():
                if isinstance(row, RejectedProduct):
                    malformed.append(row)
                else:
                    yield row

        try:
            for number, fields in enumerate(make(rows()), 1):
                yield number, fields, 1.0
        except KeyError as error:
            raise ValueError(f"{self.path.name} has no column {error}") from None
        for each in malformed:
            yield each.line, each, 1.0

    def _raw(self) -> Iterator[tuple[int, Row | RejectedProduct, float]]:
        needed = self.mapping.needs
        for chunk in chunks(self.path, 0, columns=self.mapping.columns, delimiter=self.mapping.delimiter):
            names = [name for name in chunk.table.column_names if name != MALFORMED]
            missing = sorted(needed.difference(names))
            if missing and names:
                raise ValueError(f"{self.path.name} has no column {', '.join(missing)}; it has {', '.join(names)}")
            needed = frozenset()  # a later chunk of NDJSON need not hold every name
            for number, row in zip(chunk.lines, chunk.table.to_pylist(), strict=True):
                malformed = row.pop(MALFORMED, None)
                if malformed is None:
                    yield number, row, chunk.fraction
                else:
                    message = "the row has more or fewer values than there are columns, or is no JSON object"
                    yield number, RejectedProduct(number, "MALFORMED_ROW", message), chunk.fraction


async def load_products(
    client: Client, source: ProductSource, progress: Callable[[LoadProgress], None] | None = None
) -> LoadResult:
    """Loads a file to its end; rows that are no products are left out and told.

    Raises ValueError where file and mapping do not fit each other, and the Error of an upload that fails: what was
    uploaded before is stored.
    """
    result, batches = LoadResult(), source.batches()
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        result = await _loaded(client, batch, result)
        if progress is not None:
            progress(LoadProgress(batch.fraction, result.rows))
    return result


async def _loaded(client: Client, batch: Batch, before: LoadResult) -> LoadResult:
    errors = [*batch.rejected]
    answer = await client.catalog.upload(batch.lines)
    errors += [RejectedProduct(batch.numbers[each.line - 1], each.reason, each.message) for each in answer.errors]
    errors.sort(key=lambda error: error.line)
    return LoadResult(
        before.created + answer.created,
        before.updated + answer.updated,
        before.unchanged + answer.unchanged,
        before.repeated + batch.repeated,
        before.rejected + len(batch.rejected) + answer.rejected,
        [*before.errors, *errors][:REJECTED_KEPT],
        answer.commit or before.commit,
    )


def _add(batch: Batch, seen: set[str], number: int, fields: Fields | RejectedProduct) -> None:
    if isinstance(fields, RejectedProduct):
        batch.rejected.append(fields)
        return
    product_id = str(next((fields[name] for name in _ID if fields.get(name) not in (None, "")), ""))
    if product_id in seen:
        batch.repeated += 1
        return
    line = _line(fields)
    if len(line) > LINE_BYTES_MAX:
        batch.rejected.append(RejectedProduct(number, "LINE_TOO_LONG", f"the row passes {LINE_BYTES_MAX} bytes"))
        return
    if product_id:
        seen.add(product_id)
    batch.lines.append(line)
    batch.numbers.append(number)
    batch.size += len(line)


def _line(fields: Mapping[str, object]) -> bytes:
    given = {name: _value(name, value) for name, value in fields.items()}
    known = {name: value for name, value in given.items() if value is not None and value != ""}
    return json.dumps(known, ensure_ascii=False, default=_text).encode() + b"\n"


def _value(name: str, value: object) -> object:
    if name in _STRUCTURED and isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return finite(value)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
