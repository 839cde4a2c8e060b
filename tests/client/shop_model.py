"""A double of the services about products: it keeps the requests, answers them as told, and fails on demand.

It stores what the two streams bring, by product id and by user and request_id, so that what is sent twice can be seen.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
from google.longrunning import operations_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.pipeline.v1 import pipeline_service_pb2 as pipeline
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.search.v1 import search_service_pb2 as search

AREAS = (catalog, feedback, pipeline, recommendations, search)


class ShopModel:
    """Serves on a free port of the loopback; an async context manager."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        # By method: what the next calls are answered with, a message or a status to fail with.
        self.answers: dict[str, deque[Message]] = {}
        self.interactions: dict[tuple[str, str], str] = {}  # (user, request_id) → product
        self.products: dict[str, str] = {}
        self.sizes: list[int] = []  # rows of each request of a stream
        # Requests of streams until the connection breaks, before it is stored or after.
        self.break_before: deque[int] = deque()
        self.break_after: deque[int] = deque()
        self.refuse: deque[status_pb2.Status] = deque()  # with these the next requests of streams fail
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=(("grpc.max_receive_message_length", 16 << 20),))
        for area in AREAS:
            (service,) = area.DESCRIPTOR.services_by_name.values()
            handlers = {method.name: self._handler(area, method) for method in service.methods}
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._server.stop(None)

    def answer(self, method: str, *answers: Message) -> None:
        """What the next calls of a method are answered with."""
        self.answers.setdefault(method, deque()).extend(answers)

    def _handler(self, area: Any, method: Any) -> Any:
        if method.name == "UploadProducts":
            return grpc.stream_unary_rpc_method_handler(
                self._upload, catalog.UploadProductsRequest.FromString, catalog.UploadProductsResponse.SerializeToString
            )
        request = getattr(area, method.input_type.name)
        if method.name in ("StreamProducts", "StreamFeedback"):
            take = self._products if method.name == "StreamProducts" else self._feedback

            async def stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Message]:
                async for answer in self._stream(take, requests, context):
                    yield answer

            return grpc.stream_stream_rpc_method_handler(stream, request.FromString, _serialised)

        async def unary(given: Any, context: Any) -> Message:
            self.requests.append(given)
            answer = self.answers[method.name].popleft()
            if isinstance(answer, status_pb2.Status):
                await abort(context, answer)
            return answer

        return grpc.unary_unary_rpc_method_handler(unary, request.FromString, _serialised)

    async def _upload(self, requests: AsyncIterator[Any], context: Any) -> Message:
        body = b""
        async for request in requests:
            body += request.content.data
            if _counted_down(self.break_before):
                await abort(context, status_pb2.Status(code=code_pb2.UNAVAILABLE, message="Socket closed"))
        self.requests.append(body)
        return self.answers["UploadProducts"].popleft()

    async def _stream(
        self, take: Callable[[Any], Message], requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Message]:
        broken = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="Socket closed")
        async for request in requests:
            self.requests.append(request)
            if _counted_down(self.break_before):
                await abort(context, broken)
            if self.refuse:
                await abort(context, self.refuse.popleft())
            answer = take(request)
            if _counted_down(self.break_after):
                await abort(context, broken)
            yield answer

    def _products(self, request: catalog.StreamProductsRequest) -> Message:
        self.sizes.append(len(request.products))
        new = {each.product_id for each in request.products} - set(self.products)
        self.products |= {each.product_id: each.name for each in request.products}
        return catalog.StreamProductsResponse(
            created=len(new), unchanged=len(request.products) - len(new), commit=len(self.sizes)
        )

    def _feedback(self, request: feedback.StreamFeedbackRequest) -> Message:
        self.sizes.append(len(request.interactions))
        stored = 0
        for each in request.interactions:
            stored += (each.user_id, each.request_id) not in self.interactions
            self.interactions.setdefault((each.user_id, each.request_id), each.product_id)
        return feedback.StreamFeedbackResponse(
            stored=stored, duplicates=len(request.interactions) - stored, commit=len(self.sizes)
        )


def finished(response: Message) -> operations_pb2.Operation:
    """An operation that ended with this."""
    made = operations_pb2.Operation(name="operations/o1", done=True)
    made.response.Pack(response)
    return made


async def abort(context: Any, error: status_pb2.Status) -> None:
    """Fails a call as the server does, with its details."""
    code = next(each for each in grpc.StatusCode if each.value[0] == error.code)
    await context.abort(
        code, error.message, (("grpc-status-details-bin", error.SerializeToString()),) if error.details else ()
    )


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def _counted_down(countdowns: deque[int]) -> bool:
    if not countdowns:
        return False
    countdowns[0] -= 1
    if countdowns[0] > 0:
        return False
    countdowns.popleft()
    return True
