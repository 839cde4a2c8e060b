"""Requests that are well-formed and absurd."""

import base64
import json
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events.v1 import events_service_pb2 as pb
from penstock.kpis.v1 import kpis_service_pb2 as kpis
from penstock.pipeline.v1 import pipeline_service_pb2 as pipeline
from tests.faults.hostile.calls import assert_their_fault, event, few, fields, invoke

pytestmark = [pytest.mark.slow, pytest.mark.faults]


FAR = Timestamp(seconds=253_402_300_799, nanos=999_999_999)
BEYOND = Timestamp(seconds=2**63 - 1, nanos=-(2**31))


@pytest.mark.parametrize(
    ("name", "request_", "named"),
    [
        ("ListEvents", pb.ListEventsRequest(page_size=-1), "page_size"),
        ("ListEvents", pb.ListEventsRequest(page_size=2**31 - 1), "page_size"),
        ("ListEvents", pb.ListEventsRequest(event_type="x" * 65), "event_type"),
        ("ListEvents", pb.ListEventsRequest(page_token="€"), "page_token"),
        ("CountEvents", pb.CountEventsRequest(start_time=BEYOND), "start_time"),
        ("CountEvents", pb.CountEventsRequest(start_time=FAR, end_time=Timestamp(seconds=1)), "start_time"),
        ("TailEvents", pb.TailEventsRequest(resume_token="x" * 500), "resume_token"),
        ("TailEvents", pb.TailEventsRequest(heartbeat_interval=Duration(seconds=-1)), "heartbeat_interval"),
        ("TailEvents", pb.TailEventsRequest(heartbeat_interval=Duration(seconds=2**62)), "heartbeat_interval"),
        ("GetStream", pb.GetStreamRequest(), "stream_id"),
        ("GetStream", pb.GetStreamRequest(stream_id="a/../b"), "stream_id"),
        ("GetStream", pb.GetStreamRequest(stream_id="a\n"), "stream_id"),
        ("ReplayRejectedEvents", pb.ReplayRejectedEventsRequest(rejected_ids=["x"]), "rejected_ids"),
        ("BatchCollect", pb.BatchCollectRequest(), "events"),
        ("BatchCollect", pb.BatchCollectRequest(events=[event()] * 10_001), "events"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=59)), "window"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=61)), "window"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=60, nanos=-1)), "window"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=2**63 - 1)), "window"),
        ("WatchMetrics", kpis.WatchMetricsRequest(interval=Duration(nanos=1)), "interval"),
        ("GetRevenueTrend", kpis.GetRevenueTrendRequest(limit=-5), "limit"),
        ("GetConversionTrend", kpis.GetConversionTrendRequest(limit=10_001), "limit"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="2024-02-30"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="0000-00-00"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="today"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="0001-01-01"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="9999-12-31"), "target_date"),
        ("ProcessEventType", pipeline.ProcessEventTypeRequest(), "event_type"),
        ("RunPipeline", pipeline.RunPipelineRequest(batch_size=-1), "batch_size"),
        ("RunPipeline", pipeline.RunPipelineRequest(on_conflict=77), "on_conflict"),  # type: ignore[arg-type]
        ("Cleanup", pipeline.CleanupRequest(retention_days=-1), "retention_days"),
        ("GetOperation", pipeline.GetOperationRequest(id=""), "id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_out_of_bounds_names_its_field(
    channel: grpc.Channel, name: str, request_: Message, named: str
) -> None:
    code, _, error = invoke(channel, name, request_.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT, error
    assert [each.partition("[")[0].partition(".")[0] for each in fields(error)] == [named]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("CountEvents", pb.CountEventsRequest(start_time=Timestamp(seconds=-62_135_596_800), end_time=FAR)),
        ("CountEvents", pb.CountEventsRequest(end_time=Timestamp(seconds=1))),
        ("GetMetrics", kpis.GetMetricsRequest(site_id="'\\\0")),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=2_678_400))),
        ("GetRevenueTrend", kpis.GetRevenueTrendRequest(limit=10_000, window=Duration(seconds=2_678_400))),
        ("ProcessEventType", pipeline.ProcessEventTypeRequest(event_type="'; --")),
        ("ListRejectedEvents", pb.ListRejectedEventsRequest(stream_id="'\0")),
        ("GetOperation", pipeline.GetOperationRequest(id="../../x")),
        ("CancelOperation", pipeline.CancelOperationRequest(id="\0")),
        ("Cleanup", pipeline.CleanupRequest(dry_run=True, retention_days=3_650)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_is_only_odd_is_answered(channel: grpc.Channel, name: str, request_: Message) -> None:
    code, _, error = invoke(channel, name, request_.SerializeToString())
    assert_their_fault(code, error)


def tokens() -> st.SearchStrategy[str]:
    """Tokens that nobody gave: any text, and JSON in the form that ours have."""
    values = st.integers(-(10**30), 10**30) | st.text(max_size=10) | st.none() | st.floats(allow_nan=True)
    kinds = st.sampled_from(["events", "rejected", "tail", "list"])
    made = st.tuples(kinds, st.lists(values, max_size=4)).map(
        lambda each: base64.urlsafe_b64encode(json.dumps([each[0], *each[1]]).encode()).decode().rstrip("=")
    )
    return made | st.text(max_size=60)


TAKES_TOKEN: dict[str, Callable[[str], Message]] = {
    "ListEvents": lambda token: pb.ListEventsRequest(page_token=token),
    "ListRejectedEvents": lambda token: pb.ListRejectedEventsRequest(page_token=token),
    "TailEvents": lambda token: pb.TailEventsRequest(resume_token=token),
}


@pytest.mark.parametrize("name", TAKES_TOKEN)
def test_tokens_that_nobody_gave(channel: grpc.Channel, name: str) -> None:
    @settings(few, max_examples=40)
    @given(tokens())
    def check(token: str) -> None:
        if len(token) <= 512 and token.isprintable():
            code, _, error = invoke(channel, name, TAKES_TOKEN[name](token).SerializeToString())
            assert_their_fault(code, error)

    check()
