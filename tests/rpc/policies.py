"""What the edge asks at each call, for tests of one service; as a rule everybody may, as often as they like."""

from penstock.access.v1 import access_pb2
from penstock.cache.redis import Redis
from penstock.cache.tally import Tallies
from penstock.cache.windows import Windows
from penstock.errors import Unauthenticated
from penstock.operations.metrics import RpcMetrics
from penstock.operations.performance import Performance
from penstock.operations.slow_calls import SlowCalls
from penstock.operations.watch import CallWatch
from penstock.rpc.access import Access
from penstock.rpc.admission import Admission
from penstock.rpc.policy import Policy
from penstock.rpc.principal import Principal
from penstock.rpc.rate_limits import RateLimits
from penstock.rpc.tags import Tags


class NoCredentials:
    """Knows none."""

    def known(self, credential: str) -> Principal | None:
        return None

    def principal_of(self, credential: str) -> Principal:
        raise Unauthenticated("nobody has a credential here", reason="KEY_INVALID")


async def nothing_to_learn(tenant: str) -> None:
    """No version rests on anything."""


def open_policy(computing: Admission | None = None, metrics: RpcMetrics | None = None) -> Policy:
    """Of a server that requires no credential."""
    return policy(
        Access(NoCredentials(), required=False), RateLimits(Windows(Redis(""))), computing=computing, metrics=metrics
    )


def policy(
    access: Access,
    rates: RateLimits,
    *,
    computing: Admission | None = None,
    metrics: RpcMetrics | None = None,
    performance: Performance | None = None,
) -> Policy:
    """What is not given asks nothing, or is not looked at."""
    return Policy(
        access,
        rates,
        {access_pb2.COST_CLASS_COMPUTE: computing} if computing else {},
        Tags("test", {}, nothing_to_learn),
        CallWatch(metrics or RpcMetrics(()), performance or Performance(), SlowCalls(), Tallies(), None),
    )
