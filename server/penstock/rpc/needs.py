"""What the contract declares that an rpc needs."""

from typing import Any, cast

from google.protobuf.descriptor import MethodDescriptor

from penstock.access.v1 import access_pb2


def needs_of(method: MethodDescriptor) -> access_pb2.Needs:
    """What the method declares. Raises TypeError for one that declares less than all of it: it must not be served."""
    needs = method.GetOptions().Extensions[cast(Any, access_pb2.needs)]
    if not (needs.role and needs.cost and needs.cache):
        raise TypeError(f"{method.full_name} must declare role, cost and cache in option (penstock.access.v1.needs)")
    return cast(access_pb2.Needs, needs)


def cost_name(cost: int) -> str:
    """How much a call costs, in a word: `read` for COST_CLASS_READ."""
    return access_pb2.CostClass.Name(cost).removeprefix("COST_CLASS_").lower()
