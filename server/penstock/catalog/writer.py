"""Writes the catalogue: what concurrent calls change goes into one commit, and into memory before they are answered."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from penstock import failpoints, limits
from penstock.catalog import table
from penstock.catalog.product import completed, same, serialised, stamped
from penstock.catalog.products import Catalogue, TenantProducts
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import NotFound, PenstockError, TooCostly
from penstock.storage.commit_log import CommitLog, Entry, Transaction
from penstock.storage.engine import Engine, Lane
from penstock.storage.group_commit import GroupCommit, Write


@dataclass(slots=True)
class Counts:
    """What a change came to."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0


@dataclass(slots=True)
class Change:
    """What one call wants to change; `counts` and `result` are of the last commit that was tried."""

    tenant: str
    upserts: Sequence[Product] = ()
    removed: str = ""
    counts: Counts = field(default_factory=Counts)
    result: dict[str, Product | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What was stored."""

    counts: Counts
    commit: int  # 0 when nothing had to be


class CatalogueWriter:
    """Stores and removes products."""

    def __init__(self, engine: Engine, commit_log: CommitLog, catalogue: Catalogue, currency: str) -> None:
        """`currency` is that of prices which name none."""
        self._engine = engine
        self._catalogue = catalogue
        self._currency = currency
        self._commits: GroupCommit[Change] = GroupCommit(
            commit_log, name="catalogue", store=self._store, landed=self._landed
        )

    def start(self) -> None:
        """Begins to commit."""
        self._commits.start()

    async def stop(self) -> None:
        """Commits what waits, and ends."""
        await self._commits.stop()

    async def upsert(self, tenant: str, products: Sequence[Product]) -> Written:
        """Stores the products, whole. Raises Overloaded, TooCostly (TOO_MANY_PRODUCTS), Unavailable."""
        await self._catalogue.of(tenant)
        change = Change(tenant, await asyncio.to_thread(self._completed, products))
        commit = await self._commits.write(change, len(products))
        counts = change.counts
        return Written(counts, commit if counts.created or counts.updated else 0)  # the commit may be of others alone

    async def remove(self, tenant: str, product_id: str) -> int:
        """Removes the product; the commit that did. Raises NotFound, Overloaded, Unavailable."""
        await self._catalogue.of(tenant)
        return await self._commits.write(Change(tenant, removed=product_id), 1)

    def _completed(self, products: Sequence[Product]) -> list[Product]:
        return [completed(product, self._currency) for product in products]

    async def _store(self, writes: Sequence[Write[Change]], transaction: Transaction) -> Entry | None:
        known = {tenant: await self._catalogue.current(tenant) for tenant in {write.item.tenant for write in writes}}
        plan = await asyncio.to_thread(_planned, writes, known, transaction)
        for write, error in plan.refused:
            write.refuse(error)
        if not plan.changes:
            return None
        failpoints.reached("catalogue.before_insert")
        await self._engine.insert_arrow("products", plan.rows, lane=Lane.COMMIT)
        failpoints.reached("catalogue.before_log")
        removed = sum(product is None for product in plan.changes.values())
        return Entry("catalogue", rows=len(plan.changes), detail={"removed": removed} if removed else {})

    async def _landed(self, writes: Sequence[Write[Change]], commit: int, time: datetime) -> None:
        failpoints.reached("catalogue.before_ack")
        changed: dict[str, dict[str, bytes | None]] = {}
        for write in writes:
            for product_id, product in write.item.result.items():
                changed.setdefault(write.item.tenant, {})[product_id] = serialised(product) if product else None
        for tenant, changes in changed.items():
            (await self._catalogue.of(tenant)).apply(commit, changes)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one commit is to change."""

    changes: Mapping[tuple[str, str], Product | None]  # by tenant and product id
    rows: pa.Table
    refused: Sequence[tuple[Write[Change], PenstockError]]


def _planned(writes: Sequence[Write[Change]], known: Mapping[str, TenantProducts], transaction: Transaction) -> _Plan:
    """What the writes change, in their order, each upon what the ones before it left; and the rows that say so."""
    changes: dict[tuple[str, str], Product | None] = {}
    refused: list[tuple[Write[Change], PenstockError]] = []
    sizes = {tenant: len(products) for tenant, products in known.items()}

    def current(tenant: str, product_id: str) -> Product | None:
        if (tenant, product_id) in changes:
            return changes[tenant, product_id]
        stored = known[tenant].get(product_id)
        return stored.product if stored else None

    for write in writes:
        change = write.item
        change.counts, change.result = Counts(), {}
        if change.removed:
            if current(change.tenant, change.removed) is None:
                refused.append((write, not_found(change.removed)))
                continue
            change.result[change.removed] = None
        for product_id, product in {product.product_id: product for product in change.upserts}.items():
            before = current(change.tenant, product_id)
            if before is not None and same(before, product):
                change.counts.unchanged += 1
                continue
            change.counts.created += before is None
            change.counts.updated += before is not None
            change.result[product_id] = stamped(product, before, transaction.time)
        size = sizes[change.tenant] + change.counts.created - bool(change.removed)
        if change.counts.created and size > limits.PRODUCTS_MAX:
            change.result = {}
            full = f"a catalogue may have {limits.PRODUCTS_MAX} products; remove some first"
            refused.append((write, TooCostly(full, reason="TOO_MANY_PRODUCTS")))
            continue
        sizes[change.tenant] = size
        changes.update({(change.tenant, product_id): product for product_id, product in change.result.items()})
    named = [(tenant, product_id, product) for (tenant, product_id), product in changes.items()]
    return _Plan(changes, table.rows(named, transaction.commit, transaction.time), refused)


def not_found(product_id: str) -> NotFound:
    """What is said of a product that is not there."""
    return NotFound(f"there is no product {product_id!r}", reason="PRODUCT_NOT_FOUND")
