"""The catalogue in memory: every tenant's products as they are now, for whoever finds, ranks and shows them.

The server that writes applies a commit before it answers it; one that does not, follows the log.
"""

import asyncio
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import structlog

from penstock import limits
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import PenstockError
from penstock.storage.commit_log import CommitLog
from penstock.storage.deadline import detached
from penstock.storage.engine import Engine

log = structlog.get_logger()

# Of the products whose id is behind `after`, in steps, so that no statement makes more rows than it should.
_LOAD = """
SELECT product_id, commit, message
FROM
(
    SELECT product_id, commit, deleted, message
    FROM products
    WHERE tenant = {tenant:String} AND commit <= {head:Int64} AND product_id > {after:String}
    ORDER BY product_id, commit DESC
    LIMIT 1 BY product_id
    LIMIT {limit:UInt32}
)
ORDER BY product_id
"""
_CHANGED = """
SELECT product_id, argMax(deleted, commit) AS removed, base64Encode(argMax(message, commit)) AS newest
FROM products
WHERE tenant = {tenant:String} AND commit > {since:Int64} AND commit <= {head:Int64}
GROUP BY product_id
"""
_CHANGED_IDS = """
SELECT DISTINCT product_id
FROM products
WHERE tenant = {tenant:String} AND commit > {since:Int64} AND commit <= {head:Int64}
"""
_TENANTS = "SELECT DISTINCT tenant FROM products WHERE commit <= {head:Int64}"

Listener: TypeAlias = "Callable[[int, frozenset[str]], None]"


@dataclass(frozen=True, slots=True)
class Stored:
    """A product as it is now."""

    message: bytes  # a penstock.catalog.v1.Product
    commit: int  # that stored it

    @property
    def product(self) -> Product:
        """The message, read."""
        return Product.FromString(self.message)


class TenantProducts:
    """The products of one tenant."""

    def __init__(self, tenant: str, products: dict[str, Stored], commit: int, epoch: int) -> None:
        self.tenant = tenant
        self.commit = commit  # everything up to this commit is in
        self.epoch = epoch  # of the log, when this was read
        self._products = products
        self._listeners: list[Listener] = []

    def __len__(self) -> int:
        return len(self._products)

    def __iter__(self) -> Iterator[str]:
        return iter(self._products)

    def get(self, product_id: str) -> Stored | None:
        """The product; None when there is none."""
        return self._products.get(product_id)

    def apply(self, commit: int, changes: Mapping[str, bytes | None]) -> None:
        """Takes over what a commit changed, None for what it removed, and tells who listens."""
        for product_id, message in changes.items():
            if message is None:
                self._products.pop(product_id, None)
            else:
                self._products[product_id] = Stored(message, commit)
        self.commit = max(self.commit, commit)
        for listener in self._listeners:
            listener(commit, frozenset(changes))

    def listen(self, listener: Listener) -> None:
        """From now on `listener(commit, product ids)` is called with every change, on the event loop."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Ends that."""
        self._listeners.remove(listener)


class Catalogue:
    """Every tenant's products; those of a tenant come into memory when they are first asked for."""

    def __init__(self, engine: Engine, commit_log: CommitLog) -> None:
        self._engine = engine
        self._log = commit_log
        self._tenants: dict[str, TenantProducts] = {}
        self._loading: dict[str, asyncio.Task[TenantProducts]] = {}
        self._follower: asyncio.Task[None] | None = None

    async def of(self, tenant: str) -> TenantProducts:
        """The tenant's products. Raises Unavailable."""
        known = self._tenants.get(tenant)
        if known is not None:
            return known
        task = self._loading.get(tenant)
        if task is None:
            # A caller that gives up must not take the others' answer with it.
            task = self._loading[tenant] = detached(self._load(tenant), f"load-products-{tenant}")
            task.add_done_callback(lambda _: self._loading.pop(tenant, None))
        return await asyncio.shield(task)

    async def current(self, tenant: str) -> TenantProducts:
        """The same, with everything up to the log's head, for the one who writes next."""
        products = await self.of(tenant)
        if not self._applies_all(products):
            await self._catch_up(products)
        return products

    async def changed_since(self, tenant: str, commit: int) -> set[str]:
        """Ids of products that changed after a commit, removed ones too. Raises Unavailable."""
        rows = await self._engine.rows(_CHANGED_IDS, {"tenant": tenant, "since": commit, "head": self._log.head})
        return {row["product_id"] for row in rows}

    async def mark(self, commit: int) -> str:
        """What tells a commit from one of the same number in another database; empty where there is no such commit."""
        time = await self._log.time_of(commit)
        return time.isoformat() if time is not None else ""

    async def tenants(self) -> list[str]:
        """Tenants that ever had a product."""
        return sorted(row["tenant"] for row in await self._engine.rows(_TENANTS, {"head": self._log.head}))

    def start(self) -> None:
        """Begins to follow what other servers write."""
        self._follower = asyncio.create_task(self._follow(), name="follow-products")

    async def stop(self) -> None:
        """Ends what runs in the background."""
        tasks = [task for task in (self._follower, *self._loading.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, tenant: str) -> TenantProducts:
        head, epoch = self._log.head, self._log.epoch
        products: dict[str, Stored] = {}
        after = ""
        while True:
            table = await self._engine.arrow(
                _LOAD,
                {"tenant": tenant, "head": head, "after": after, "limit": limits.PRODUCTS_LOADED_ROWS},
                texts=False,
            )
            found = await asyncio.to_thread(_stored, table)
            products.update((product_id, stored) for product_id, stored in found if stored.message)
            if len(found) < limits.PRODUCTS_LOADED_ROWS:
                break
            after = found[-1][0]
        loaded = TenantProducts(tenant, products, head, epoch)
        # What was committed while this was read.
        await self._catch_up(loaded)
        self._tenants[tenant] = loaded
        return loaded

    async def _catch_up(self, products: TenantProducts) -> None:
        while products.commit < self._log.head:
            head, epoch = self._log.head, self._log.epoch
            rows = await self._engine.rows(
                _CHANGED, {"tenant": products.tenant, "since": products.commit, "head": head}
            )
            changes = {row["product_id"]: None if row["removed"] else b64decode(row["newest"]) for row in rows}
            if products.commit < head:  # the writer of this process may have been faster
                products.commit, products.epoch = head, epoch
                if changes:
                    products.apply(head, changes)

    def _applies_all(self, products: TenantProducts) -> bool:
        """Whether this process writes, and nobody else did since they were read: its writer applies what there is."""
        return self._log.leads and products.epoch == self._log.epoch

    async def _follow(self) -> None:
        while True:
            head = self._log.head
            for products in list(self._tenants.values()):
                if not self._applies_all(products):
                    try:
                        await self._catch_up(products)
                    except PenstockError as error:
                        log.warning("products are not up to date", tenant=products.tenant, error=error.message)
                    except Exception:
                        log.exception("products could not be followed", tenant=products.tenant)
            await self._log.wait_beyond(head, limits.FOLLOW_INTERVAL_S * 4)


def _stored(table: pa.Table) -> list[tuple[str, Stored]]:
    """The products in rows of _LOAD; the message of a tombstone is empty."""
    ids, commits, messages = (table.column(name).to_pylist() for name in ("product_id", "commit", "message"))
    return [
        (product_id.decode(), Stored(message, commit))
        for product_id, commit, message in zip(ids, commits, messages, strict=True)
    ]
