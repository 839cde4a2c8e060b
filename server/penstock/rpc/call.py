"""What a service knows of the call that it answers."""

import time
from dataclasses import dataclass, field

import grpc


@dataclass(slots=True)
class Call:
    """One rpc under way. Made by the edge, given to the service in place of gRPC's own context."""

    method: str  # "/penstock.kpis.v1.KpiService/GetMetrics"
    tenant: str
    request_id: str
    client_address: str
    user_agent: str
    context: grpc.aio.ServicerContext
    metadata: dict[str, str]  # as received; of repeated keys the last
    started: float = field(default_factory=time.perf_counter)
