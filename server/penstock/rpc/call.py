"""What a service knows of the call that it answers."""

import time
from dataclasses import dataclass, field

import grpc

from penstock.rpc.principal import ANONYMOUS, Principal


@dataclass(slots=True)
class Call:
    """One rpc under way. Made by the edge, given to the service in place of gRPC's own context."""

    method: str  # "/penstock.kpis.v1.KpiService/GetMetrics"
    request_id: str
    client_address: str
    user_agent: str
    context: grpc.aio.ServicerContext
    metadata: dict[str, str]  # as received; of repeated keys the last
    principal: Principal = ANONYMOUS  # until the edge has found out who it is
    headers: tuple[tuple[str, str], ...] = ()  # to be sent along with the answer, or with what ends the call
    span: object = None  # of its trace, for whoever watches calls
    started: float = field(default_factory=time.perf_counter)

    @property
    def tenant(self) -> str:
        """Whose data it is about: what the credential says, and nothing else."""
        return self.principal.tenant
