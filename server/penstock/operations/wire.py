"""Between the contract's messages and what is known of the server."""

from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.cache.results import Kind
from penstock.cache.tally import KindStats
from penstock.operations.health import Dependency
from penstock.operations.performance import WINDOW_S, OperationFigures, Report
from penstock.operations.slow_calls import SLOW_S, SlowCall
from penstock.operations.v1 import operations_pb2
from penstock.operations.v1 import operations_service_pb2 as pb


def dependencies(found: Iterable[Dependency]) -> list[operations_pb2.Dependency]:
    """What the server rests on."""
    return [
        operations_pb2.Dependency(
            name=each.name,
            # The numbers are the same; a test holds the two enums together.
            state=operations_pb2.Dependency.State.Name(each.state.value),
            detail=each.detail,
            latency_ms=each.latency_ms,
        )
        for each in found
    ]


def cache_stats(
    kinds: Mapping[str, KindStats], known: Mapping[str, Kind], *, entries: int, redis: str, uptime_s: float
) -> pb.GetCacheStatsResponse:
    """What became of a tenant's answers; `known` are the kinds that have a time to live."""
    hits = sum(each.local_hits + each.redis_hits for each in kinds.values())
    misses = sum(each.misses for each in kinds.values())
    response = pb.GetCacheStatsResponse(
        hits=hits,
        misses=misses,
        kinds=[_kind(name, stats, known.get(name)) for name, stats in sorted(kinds.items())],
        entries=entries,
        redis=redis,
        uptime_seconds=uptime_s,
    )
    if hits + misses:
        response.hit_rate = hits / (hits + misses)
    return response


def _kind(name: str, stats: KindStats, known: Kind | None) -> pb.GetCacheStatsResponse.CacheKind:
    made = pb.GetCacheStatsResponse.CacheKind(
        kind=name,
        local_hits=stats.local_hits,
        redis_hits=stats.redis_hits,
        misses=stats.misses,
        hit_rate=stats.hit_rate,
        sets=stats.sets,
        invalidations=stats.invalidations,
        get_ms_mean=stats.get_us_mean / 1e3,
        set_ms_mean=stats.set_us_mean / 1e3,
    )
    if known is not None:
        made.ttl_seconds = known.ttl_s
    return made


def performance(report: Report) -> pb.GetPerformanceResponse:
    """A tenant's operations."""
    return pb.GetPerformanceResponse(
        window_seconds=WINDOW_S,
        grade=report.grade.word,
        operations=map(_operation, report.operations),
        advice=report.advice,
    )


def _operation(found: OperationFigures) -> operations_pb2.OperationPerformance:
    made = operations_pb2.OperationPerformance(
        operation=found.operation,
        count=found.count,
        server_errors=found.server_errors,
        client_errors=found.client_errors,
        error_rate=found.error_rate,
        cache_hit_rate=found.cache_hit_rate,
        grade=found.grade.word,
    )
    times = found.durations
    if times is not None:
        made.p50_ms, made.p95_ms, made.p99_ms = times.p50_ms, times.p95_ms, times.p99_ms
        made.mean_ms, made.min_ms, made.max_ms = times.mean_ms, times.min_ms, times.max_ms
        made.measured = times.measured
    return made


def slow_calls(calls: Iterable[SlowCall]) -> pb.ListSlowQueriesResponse:
    """A tenant's slow calls."""
    return pb.ListSlowQueriesResponse(slow_queries=map(_slow_call, calls), threshold_ms=SLOW_S * 1e3)


def _slow_call(call: SlowCall) -> operations_pb2.SlowQuery:
    time = Timestamp()
    time.FromDatetime(call.time)
    return operations_pb2.SlowQuery(
        time=time,
        operation=call.operation,
        duration_ms=call.duration_ms,
        code=call.code,
        request_id=call.request_id,
        stages=dict(call.stages),
        cache_hit=call.cache,
    )
