"""The catalogue: storing products, reading them back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.api import httpbody_pb2

from penstock.catalog.v1 import catalog_service_pb2 as pb
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from penstock_client.backoff import Backoff
from penstock_client.connection import Connection, pause
from penstock_client.delivery import Ending, Exchange, converted, deliver, written
from penstock_client.errors import Overloaded, Unavailable
from penstock_client.filters import PriceRange, bounds
from penstock_client.products import as_product

PAGE_PRODUCTS = 200
LOAD_PRODUCTS = 1_000  # of one request of `load`: the server makes a commit of each
UPLOAD_TIMEOUT_S = 600.0  # an upload may be of any size
PIECE_BYTES = 256 * 1024

ProductLike: TypeAlias = Product | Mapping[str, object]
# What can be read again is sent again when the connection breaks: a file, bytes, or a sequence of bytes.
Ndjson: TypeAlias = Path | str | bytes | Iterable[bytes] | AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class LoadedProducts:
    """What became of products; a request that was sent again counts what its first try stored as unchanged."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    commit: int = 0  # the last; 0 when nothing had to be written


class CatalogClient:
    """`client.catalog`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> CatalogServiceStub:
        return CatalogServiceStub(self._connection.channel)

    async def upsert(self, products: ProductLike | Iterable[ProductLike]) -> pb.UpsertProductsResponse:
        """Stores a product or up to 5,000, all in one commit or none; for more, `load`.

        Each is stored whole: what a field leaves out, the stored product no longer has. A mapping has the fields of
        `product`.
        """
        request = pb.UpsertProductsRequest(products=[as_product(each) for each in _several(products)])
        # The same products again change nothing, so the call may be tried again.
        return await self._connection.read(self._stub.UpsertProducts, request, pb.UpsertProductsResponse)

    async def load(
        self, products: Iterable[ProductLike] | AsyncIterable[ProductLike], *, batch: int = LOAD_PRODUCTS
    ) -> LoadedProducts:
        """Stores any number of products, `batch` (up to 5,000) a commit, as fast as the server takes them.

        Goes on by itself when the connection breaks. A plain iterable is read on a thread. Raises the Error of a
        product that the server refuses: batches before it are stored, those behind it are not.
        """
        loaded = LoadedProducts()
        async for answer in self.stream(products, batch=batch):
            loaded = LoadedProducts(
                loaded.created + answer.created,
                loaded.updated + answer.updated,
                loaded.unchanged + answer.unchanged,
                answer.commit or loaded.commit,
            )
        return loaded

    def stream(
        self, products: Iterable[ProductLike] | AsyncIterable[ProductLike], *, batch: int = LOAD_PRODUCTS
    ) -> AsyncIterator[pb.StreamProductsResponse]:
        """The same, with the answer to each batch as it is stored."""

        def start() -> Any:
            return self._stub.StreamProducts(metadata=self._connection.metadata)

        made = converted(products, as_product) if isinstance(products, AsyncIterable) else map(as_product, products)
        exchange = Exchange(start, _request, pb.StreamProductsResponse, rows=batch, read_ahead=batch)
        return deliver(self._connection, exchange, made)

    async def upload(self, ndjson: Ndjson, *, timeout_s: float = UPLOAD_TIMEOUT_S) -> pb.UploadProductsResponse:
        """Stores newline-delimited JSON, a file or bytes: one product a line, with fields as feeds spell them.

        Lines that are no product are left out and told. While the server is away, for `retry_total_s` at most, a file,
        bytes or a sequence of bytes are sent again from the start; what is stored by then the answer counts as
        unchanged.
        """
        backoff = Backoff(self._connection.retry_total_s)
        while True:
            try:
                return await self._upload_once(ndjson, timeout_s)
            except (Unavailable, Overloaded) as error:
                if not isinstance(ndjson, Path | str | bytes | Sequence):
                    raise
                await pause(backoff, error)

    async def get(self, product_id: str, *, as_of: int = 0) -> Product:
        """A product as it is, or was at a version. Raises NotFound, and OutOfRange for a version that is not there."""
        request = pb.GetProductRequest(product_id=product_id, as_of_version=as_of)
        return (await self._connection.read(self._stub.GetProduct, request, pb.GetProductResponse)).product

    async def delete(self, product_id: str) -> int:
        """Removes a product, and returns the commit that did; older versions keep it. Raises NotFound."""
        request = pb.DeleteProductRequest(product_id=product_id)
        return (await self._connection.call(self._stub.DeleteProduct, request, pb.DeleteProductResponse)).commit

    async def list(
        self,
        *,
        category: str = "",
        category_id: str = "",
        brand: str = "",
        merchant_id: str = "",
        in_stock: bool | None = None,
        price: PriceRange | None = None,
        include_inactive: bool = False,
        as_of: int = 0,
        page_size: int = PAGE_PRODUCTS,
    ) -> AsyncIterator[Product]:
        """Products by id, page after page, all of one version.

        `category` is a path such as `Home/Lighting`, with what is below it; `price` a pair, None for no bound.
        """
        low, high = bounds(price)
        request = pb.ListProductsRequest(
            category=category,
            category_id=category_id,
            brand=brand,
            merchant_id=merchant_id,
            in_stock=in_stock,
            min_price=low,
            max_price=high,
            include_inactive=include_inactive,
            as_of_version=as_of,
            page_size=page_size,
        )
        while True:
            page = await self._connection.read(self._stub.ListProducts, request, pb.ListProductsResponse)
            for each in page.products:
                yield each
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _upload_once(self, ndjson: Ndjson, timeout_s: float) -> pb.UploadProductsResponse:
        stub: Any = self._stub
        call = stub.UploadProducts(timeout=timeout_s, metadata=self._connection.metadata)
        ending = Ending(call)
        try:
            async with aclosing(_pieces(ndjson)) as pieces:
                async for piece in pieces:
                    request = pb.UploadProductsRequest(content=httpbody_pb2.HttpBody(data=piece))
                    if not await written(call, request):
                        break  # the server ended the call; the answer says why
                else:
                    await call.done_writing()
            response = await call
        except grpc.aio.AioRpcError:
            raise await ending.error() from None
        finally:
            call.cancel()
        assert isinstance(response, pb.UploadProductsResponse)
        return response


def _several(products: ProductLike | Iterable[ProductLike]) -> Iterable[ProductLike]:
    return (products,) if isinstance(products, Product | Mapping) else products


def _request(products: Sequence[Product]) -> pb.StreamProductsRequest:
    return pb.StreamProductsRequest(products=products)


async def _pieces(ndjson: Ndjson) -> AsyncGenerator[bytes]:
    """The bytes in pieces that a message can hold, and no smaller than need be."""
    if isinstance(ndjson, AsyncIterable):
        async for given in ndjson:
            for piece in _cut(given):
                yield piece
    elif isinstance(ndjson, Path | str):
        with await asyncio.to_thread(Path(ndjson).open, "rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece
    else:
        parts = _joined((ndjson,) if isinstance(ndjson, bytes) else ndjson)
        while (joined := await asyncio.to_thread(next, parts, None)) is not None:
            for piece in _cut(joined):
                yield piece


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    waiting, size = [], 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _cut(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
