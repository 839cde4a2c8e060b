"""Health, reflection and channelz, which tools expect under their standard names."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from penstock import errors
from penstock.access.v1 import access_pb2
from penstock.rpc.access import Access
from penstock.rpc.call import texts
from penstock.rpc.principal import DEFAULT_TENANT
from penstock.rpc.status import abort, status_of


def add_standard_services(
    server: grpc.aio.Server, health_servicer: health.aio.HealthServicer, names: Sequence[str], access: Access
) -> None:
    """Adds them. Health and the contract, by reflection, are for everybody; channelz, which shows who is connected, for
    operators of the tenant `default`, whose server it is."""
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection([*names, health_name, reflection.SERVICE_NAME], server)
    channelz.add_channelz_servicer(_Guarded(server, access))


class _Guarded:
    """Stands in for the server where generated code adds its handlers, and puts a check before each."""

    def __init__(self, server: grpc.aio.Server, access: Access) -> None:
        self._server = server
        self._access = access

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Nothing: what generated code adds here, it adds as registered methods too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        """Adds the methods of a service, each behind the check."""
        guarded = {name: self._guarded(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))

    def _guarded(self, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        answer: Callable[[Any, Any], Any] = handler.unary_unary

        async def checked(request: Any, context: grpc.aio.ServicerContext) -> Any:
            await _allow(self._access, context)
            return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(
            checked, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


async def _allow(access: Access, context: grpc.aio.ServicerContext) -> None:
    try:
        caller = access.principal(texts(context))
        caller.require(access_pb2.ROLE_OPERATOR, "/grpc.channelz.v1.Channelz")
        if caller.tenant != DEFAULT_TENANT:
            raise errors.PermissionDenied(
                f"the connections of the server are shown to operators of the tenant {DEFAULT_TENANT} only",
                reason="TENANT_NOT_ALLOWED",
            )
    except errors.PenstockError as error:
        await abort(context, status_of(error), [])
