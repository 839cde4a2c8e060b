"""Calls any rpc by its descriptor, with bytes for messages."""

from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor


def called(channel: grpc.Channel, method: MethodDescriptor, body: bytes, credential: str | None, seconds: float) -> Any:
    """The rpc's answer, or what iterates over its answers; `seconds` for one that lasts as long as its client likes.

    Raises grpc.RpcError, also while it is iterated over.
    """
    kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    path = f"/{method.containing_service.full_name}/{method.name}"
    rpc: Any = getattr(channel, kind)(path, request_serializer=None, response_deserializer=None)
    return rpc(
        iter((body,)) if method.client_streaming else body,
        metadata=[("authorization", f"Bearer {credential}")] if credential is not None else [],
        timeout=seconds if method.server_streaming or method.client_streaming else 30,
    )
