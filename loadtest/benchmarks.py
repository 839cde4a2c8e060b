"""Every benchmark by its name."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from loadtest import (
    edge,
    endurance,
    ingest,
    kpis,
    latency,
    overload,
    peers,
    quality_anomalies,
    quality_forecasts,
    quality_recommendations,
    quality_search,
    recommending,
    sql,
    texts,
    timetravel,
    unary,
    vectors,
)
from loadtest.ingest import Shape
from loadtest.result import Result
from loadtest.scale import FLOOD, FULL, LONG, QUICK, QUICK_LONG, Scale


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is measured, and by what."""

    what: str
    run: Callable[[str, Scale], Awaitable[Result]]
    full: Scale = FULL
    quick: Scale = QUICK
    in_all: bool = True  # whether a run without a name includes it


def _ingest(
    shape: Shape, *, target: float | None = None, value: float | None = None
) -> Callable[..., Awaitable[Result]]:
    return partial(ingest.ingest, shape=shape, target=target, value=value)


BENCHMARKS: Mapping[str, Benchmark] = {
    "ingest_rows_4x1000": Benchmark(
        "durable rows/s, 4 streams, 1,000 rows a batch", _ingest(Shape(4, 1_000), target=0.8)
    ),
    "ingest_rows_4x100": Benchmark("the same, 100 rows a batch", _ingest(Shape(4, 100), target=0.3)),
    "ingest_rows_50x10": Benchmark("the same, 50 streams, 10 rows a batch", _ingest(Shape(50, 10), value=60_000)),
    "ingest_arrow": Benchmark(
        "durable rows/s of Arrow batches, 4 streams, 1,000 rows a batch", partial(ingest.arrow, shape=Shape(4, 1_000))
    ),
    "ack_p99_at_50k": Benchmark("time to ack at 50,000 rows/s, without fsync", latency.ack_p99),
    "gold_freshness_p95_at_50k": Benchmark(
        "time until WatchMetrics shows it, at 50,000 rows/s", latency.gold_freshness_p95
    ),
    "metrics_unary": Benchmark("GetMetrics from the cache, 8 at once", unary.metrics_unary),
    "empty_rpc": Benchmark("an empty call, 8 at once", unary.empty_rpc),
    "kpis_query_month": Benchmark("kpis:query over a month by day and two dimensions", kpis.kpis_query_month),
    "metrics_cached": Benchmark("GetMetrics and the trends from memory, 8 clients", kpis.metrics_cached),
    "trend_uncached": Benchmark("GetMetrics and the trends, none asked before, 8 clients", kpis.trend_uncached),
    "timetravel_read": Benchmark("pages of gold and silver as of older versions", timetravel.timetravel_read),
    "anomaly_nab": Benchmark("anomalies found in the Numenta benchmark's series", quality_anomalies.anomaly_nab),
    "forecast_m4_hourly": Benchmark(
        "error of forecasts of M4's hourly series, a file of which is needed",
        quality_forecasts.forecast_m4_hourly,
        LONG,
        QUICK_LONG,
        in_all=False,
    ),
    "sql_gate_overhead": Benchmark("what the gate adds to a statement", sql.sql_gate_overhead),
    "sql_validate": Benchmark("a validation, the gate and the engine's types", sql.sql_validate),
    "sql_aggregate_5m": Benchmark("SQL aggregations over 5 million events", sql.sql_aggregate_5m),
    "vector_search_100k": Benchmark("nearest neighbours among 100,000 products, 8 at once", vectors.vector_search),
    "vector_search_filtered": Benchmark(
        "the same behind filters that let through .01 to 100 %", vectors.vector_search_filtered
    ),
    "text_search": Benchmark("hybrid search by texts, first asked and asked again, 8 at once", texts.text_search),
    "encode_query": Benchmark("the encoder alone: a query, and documents", texts.encode_query),
    "recommend": Benchmark("FEED for users with a history, 8 at once", recommending.recommend),
    "feedback_session": Benchmark("feedback until the next FEED is another, 8 at once", recommending.feedback_session),
    "vs_milvus_lite": Benchmark(
        "nearest neighbours beside milvus-lite's, on Fashion-MNIST, which is needed", peers.vs_milvus_lite, in_all=False
    ),
    "vs_qdrant_edge": Benchmark("the same beside Qdrant's engine in process", peers.vs_qdrant_edge, in_all=False),
    "search_ndcg_dev": Benchmark(
        "relevance of searches by people's judgements, a file of which is needed",
        quality_search.search_ndcg_dev,
        LONG,
        QUICK_LONG,
        in_all=False,
    ),
    "recommend_ml100k": Benchmark(
        "the last films of MovieLens-100K, which is fetched, foreseen by FEED",
        quality_recommendations.recommend_ml100k,
        LONG,
        QUICK_LONG,
        in_all=False,
    ),
    "auth_overhead": Benchmark("GetMetrics from the cache with a credential, 8 at once", edge.auth_overhead),
    "rate_limit_overhead": Benchmark("the same, counted by rate limits", edge.rate_limit_overhead),
    "rest_overhead": Benchmark("the same as GET /metrics through Envoy", edge.rest_overhead),
    "cache_hit": Benchmark("a search whose answer is kept, 8 at once", edge.cache_hit),
    "overload": Benchmark(
        "five times as many searches as can be answered, for a minute", overload.overload, FLOOD, in_all=False
    ),
    "memory": Benchmark("RSS over a long run at 200,000 rows/s", endurance.memory, LONG, QUICK_LONG, in_all=False),
    "flood": Benchmark("RSS while 10 million rows rush in", endurance.flood, LONG, QUICK_LONG, in_all=False),
}
