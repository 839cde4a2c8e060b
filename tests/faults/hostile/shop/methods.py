"""The methods of these areas, by name."""

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.search.v1 import search_service_pb2 as search
from tests.faults.hostile.calls import invoke, methods_of

METHODS: dict[str, MethodDescriptor] = {
    method.name: method for method in methods_of(catalog, search, recommendations, feedback)
}


def send(
    channel: grpc.Channel, name: str, request: Message
) -> tuple[grpc.StatusCode, list[bytes], grpc.RpcError | None]:
    """Sends one request: the status, the answers' bytes, and the error."""
    return invoke(channel, METHODS[name], request.SerializeToString())
