"""What a service knows of the call that it answers."""

import time
from dataclasses import dataclass, field

import grpc

from penstock.errors import PenstockError
from penstock.rpc.principal import NOBODY, Principal


@dataclass(slots=True)
class Call:
    """One rpc under way. Made by the edge, given to the service in place of gRPC's own context."""

    method: str  # "/penstock.kpis.v1.KpiService/GetMetrics"
    request_id: str
    client_address: str
    user_agent: str
    context: grpc.aio.ServicerContext
    metadata: dict[str, str]  # as received; of repeated keys the last
    principal: Principal = NOBODY  # until the edge has found out who it is
    refusal: PenstockError | None = None  # why it may not be made, once that is known
    headers: tuple[tuple[str, str], ...] = ()  # to be sent along with the answer, or with what ends the call
    span: object = None  # of its trace, for whoever watches calls
    started: float = field(default_factory=time.perf_counter)

    @property
    def tenant(self) -> str:
        """Whose data it is about: what the credential says, and nothing else."""
        return self.principal.tenant


def reply_headers(call: Call, *, cached: bool = False) -> tuple[tuple[str, str], ...]:
    """What goes along with the reply to a call now."""
    return standard_headers(call.request_id, time.perf_counter() - call.started, cached=cached, more=call.headers)


def standard_headers(
    request_id: str, seconds: float, *, cached: bool, more: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """What goes along with every reply: its request's id, the time it took so far, whether a cache had it, and more
    where there is more to tell."""
    return (
        ("x-request-id", request_id),
        ("x-process-time", f"{seconds * 1e3:.2f}ms"),
        ("x-cache-hit", "true" if cached else "false"),
        *more,
    )


def texts(context: grpc.aio.ServicerContext) -> dict[str, str]:
    """The metadata that came with a call, binary ones apart; of repeated keys the last."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
