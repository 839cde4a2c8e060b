"""Every tenant's index; that of a tenant is opened when it is first searched, those with products at start."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from penstock import limits
from penstock.catalog.products import Catalogue
from penstock.errors import PenstockError, Unavailable
from penstock.search.hosted import Encoding, HostedIndex, loading

log = structlog.get_logger()


class Indexes:
    """The indexes of all tenants."""

    def __init__(self, catalogue: Catalogue, wanted: Encoding, others: Sequence[Encoding], folder: Path) -> None:
        """`others` are encoders whose saved indexes may answer until the one of `wanted` is made."""
        self._catalogue = catalogue
        self._wanted = wanted
        self._others = others
        self._folder = folder
        self._hosted: dict[str, HostedIndex] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def open(self) -> None:
        """Begins to open the indexes of tenants that have products."""
        for tenant in await self._catalogue.tenants():
            self._begin(tenant)

    async def close(self) -> None:
        """Saves what changed, and ends."""
        self._closed = True
        for task in list(self._opening.values()):
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        await asyncio.gather(*(hosted.close() for hosted in self._hosted.values()))

    @property
    def loading(self) -> list[str]:
        """Tenants whose index is being opened."""
        return list(self._opening)

    async def of(self, tenant: str) -> HostedIndex:
        """The tenant's index. Raises Unavailable (INDEX_LOADING) while it is being read."""
        hosted = self._hosted.get(tenant)
        if hosted is not None:
            return hosted
        if self._closed:
            raise Unavailable("this server is stopping; ask another", reason="DRAINING", retry_after_s=0.5)
        opening = self._opening.get(tenant) or self._begin(tenant)
        # An empty catalogue is read in a moment; a large one is not waited for.
        await asyncio.wait({opening}, timeout=0.5)
        hosted = self._hosted.get(tenant)
        if hosted is None:
            raise loading()
        return hosted

    def content(self, tenant: str) -> str | None:
        """Names what the tenant's answers depend on now; None while the index is being read, or nobody searched it."""
        hosted = self._hosted.get(tenant)
        return hosted.view.content if hosted is not None and hosted.ready else None

    def size(self) -> tuple[int, int]:
        """Products that can be found, of all tenants, and the bytes that their indexes take. For any thread."""
        found = [hosted.size for hosted in list(self._hosted.values())]
        return sum(products for products, _ in found), sum(size for _, size in found)

    def size_of(self, tenant: str) -> tuple[int, int]:
        """The same of one tenant; nothing while its index is being read, or nobody searched it."""
        hosted = self._hosted.get(tenant)
        return hosted.size if hosted is not None else (0, 0)

    async def found(self, tenant: str, commit: int, product_ids: Sequence[str]) -> None:
        """Waits until searches see what a commit changed, FOUND_S_MAX at most.

        Who stores a product and searches for it finds it so; nobody has to know that there is an index.
        """
        few = product_ids if len(product_ids) <= limits.FOUND_PRODUCTS_MAX else ()
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(limits.FOUND_S_MAX):
                await (await self.of(tenant)).has(commit, few)

    def _begin(self, tenant: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._open(tenant), name=f"open-index-{tenant}")
        self._opening[tenant] = task
        task.add_done_callback(lambda _: self._opening.pop(tenant, None))
        return task

    async def _open(self, tenant: str) -> None:
        try:
            hosted = HostedIndex(await self._catalogue.of(tenant), self._catalogue.mark, self._folder)
            try:
                await hosted.open(self._wanted, self._others, partial(self._catalogue.changed_since, tenant))
            except BaseException:
                await hosted.close()
                raise
        except PenstockError as error:
            log.warning("the index cannot be opened now", tenant=tenant, error=error.message)
        except Exception:
            log.exception("the index cannot be opened", tenant=tenant)
        else:
            self._hosted[tenant] = hosted
