"""The catalogue over gRPC."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeAlias

from penstock.catalog.reader import ProductReader, Wanted
from penstock.catalog.upload import Uploads
from penstock.catalog.v1 import catalog_service_pb2 as pb
from penstock.catalog.writer import CatalogueWriter
from penstock.rpc.call import Call

Found: TypeAlias = Callable[[str, int, Sequence[str]], Awaitable[None]]


class CatalogService:
    """Serves `penstock.catalog.v1.CatalogService`."""

    def __init__(self, writer: CatalogueWriter, reader: ProductReader, found: Found) -> None:
        """`found(tenant, commit, product ids)` waits, within bounds, until searches see what a commit changed."""
        self._writer = writer
        self._reader = reader
        self._found = found
        self._uploads = Uploads(writer)

    async def UpsertProducts(self, request: pb.UpsertProductsRequest, call: Call) -> pb.UpsertProductsResponse:
        done = await self._writer.upsert(call.tenant, request.products)
        counts = done.counts
        if done.commit:
            await self._found(call.tenant, done.commit, [product.product_id for product in request.products])
        return pb.UpsertProductsResponse(
            created=counts.created, updated=counts.updated, unchanged=counts.unchanged, commit=done.commit
        )

    async def StreamProducts(
        self, requests: AsyncIterator[pb.StreamProductsRequest], call: Call
    ) -> AsyncIterator[pb.StreamProductsResponse]:
        async for request in requests:
            done = await self._writer.upsert(call.tenant, request.products)
            counts = done.counts
            yield pb.StreamProductsResponse(
                created=counts.created, updated=counts.updated, unchanged=counts.unchanged, commit=done.commit
            )

    async def UploadProducts(
        self, requests: AsyncIterator[pb.UploadProductsRequest], call: Call
    ) -> pb.UploadProductsResponse:
        done = await self._uploads.store(call.tenant, _pieces(requests))
        return pb.UploadProductsResponse(
            created=done.created,
            updated=done.updated,
            unchanged=done.unchanged,
            rejected=done.rejected,
            errors=[pb.LineError(line=bad.line, reason=bad.reason, message=bad.message) for bad in done.errors],
            commit=done.commit,
        )

    async def GetProduct(self, request: pb.GetProductRequest, call: Call) -> pb.GetProductResponse:
        found = await self._reader.get(call.tenant, request.product_id, request.as_of_version)
        return pb.GetProductResponse(product=found.product, commit=found.commit)

    async def DeleteProduct(self, request: pb.DeleteProductRequest, call: Call) -> pb.DeleteProductResponse:
        commit = await self._writer.remove(call.tenant, request.product_id)
        await self._found(call.tenant, commit, ())
        return pb.DeleteProductResponse(commit=commit)

    async def ListProducts(self, request: pb.ListProductsRequest, call: Call) -> pb.ListProductsResponse:
        wanted = Wanted(
            category_id=request.category_id,
            category=tuple(filter(None, request.category.split("/"))),
            brand=request.brand,
            merchant_id=request.merchant_id,
            in_stock=request.in_stock if request.HasField("in_stock") else None,
            min_price=request.min_price if request.HasField("min_price") else None,
            max_price=request.max_price if request.HasField("max_price") else None,
            include_inactive=request.include_inactive,
        )
        page = await self._reader.page(
            call.tenant, wanted, size=request.page_size, page_token=request.page_token, version=request.as_of_version
        )
        return pb.ListProductsResponse(
            products=page.products, next_page_token=page.next_token, total=page.total, version=page.version
        )


async def _pieces(requests: AsyncIterator[pb.UploadProductsRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.content.data
