"""What the terminal shows, as text."""

from datetime import UTC, datetime

import pytest
from rich.console import Console, RenderableType

from penstock.cli import display
from penstock.kpis.v1 import kpis_pb2, kpis_service_pb2
from penstock.operations.v1 import operations_pb2, operations_service_pb2
from penstock.pipeline.v1 import pipeline_pb2, pipeline_service_pb2


def shown(renderable: RenderableType, width: int = 100) -> str:
    """The renderable as a terminal without colours prints it."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def window() -> kpis_service_pb2.GetMetricsResponse:
    """A busy hour."""
    answer = kpis_service_pb2.GetMetricsResponse(
        latest_kpis=kpis_pb2.KpiWindow(
            orders=120,
            gmv=4321.5,
            purchase_users=90,
            view_users=3000,
            active_users=3100,
            conversion_rate=0.03,
            currency="GBP",
            refunds=-12.25,
            page_views=9000,
            add_to_carts=400,
            average_order_value=36.0125,
            revenue_net=4309.25,
        ),
        recent_events={"page_view": 9000, "purchase": 125},
        freshness=kpis_pb2.Freshness(commit=7),
    )
    answer.latest_kpis.window_start.FromDatetime(datetime(2026, 5, 1, 9, tzinfo=UTC))
    answer.latest_kpis.window_end.FromDatetime(datetime(2026, 5, 1, 10, tzinfo=UTC))
    return answer


def test_every_figure_of_a_window_is_shown() -> None:
    text = shown(display.metrics(window(), title="shop", subtitle="real", history=[1, 2, 3]))
    for figure in (
        "shop", "real", "120", "GBP 4,321.50", "90", "3,000", "3,100", "3.00%", "GBP -12.25", "GBP 4,309.25", "9,000",
        "400", "GBP 36.01", "▁▅█", "2026-05-01 09:00 → 2026-05-01 10:00 UTC", "up to date, commit 7", "purchase 125",
    ):  # fmt: skip
        assert figure in text


def test_what_is_not_known_is_no_zero() -> None:
    answer = window()
    answer.latest_kpis.ClearField("conversion_rate")
    assert "–" in shown(display.metrics(answer, title="shop"))
    assert "0.00%" not in shown(display.metrics(answer, title="shop"))


def test_without_events_the_reason_is_shown() -> None:
    answer = kpis_service_pb2.GetMetricsResponse(reason="no events yet")
    assert "no events yet" in shown(display.metrics(answer, title="shop"))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_any_terminal(width: int) -> None:
    lines = shown(display.metrics(window(), title="shop"), width).splitlines()
    assert max(map(len, lines)) <= width


def test_status_shows_parts_and_figures() -> None:
    answer = operations_service_pb2.GetStatusResponse(
        status="degraded", version="1.2.3", uptime_seconds=3_725, memory_bytes=512 * 2**20,
        dependencies=[
            operations_pb2.Dependency(name="storage", state=operations_pb2.Dependency.STATE_DOWN, detail="away")
        ],
        ingest=operations_service_pb2.GetStatusResponse.IngestStatus(rows_accepted=1_234_567),
    )  # fmt: skip
    text = shown(display.status(answer))
    for part in ("1.2.3", "degraded", "1 h 2 min", "storage", "down", "away", "1,234,567", "512.0 MiB"):
        assert part in text


def test_the_pipelines_state_shows_what_waits_and_what_failed() -> None:
    answer = pipeline_service_pb2.GetPipelineStatusResponse(
        last_commit=12, processed_commit=9, lag_commits=3, lag_seconds=1.5, unprocessed={"purchase": 10},
        tables=[pipeline_service_pb2.GetPipelineStatusResponse.TableSize(name="bronze_events", rows=1e6, bytes=2**30)],
        recent_runs=[pipeline_pb2.Run(run=4, state=pipeline_pb2.Run.STATE_FAILED, error="disk full")],
    )  # fmt: skip
    text = shown(display.pipeline(answer), 120)
    for part in (
        "commit 9 of 12",
        "3 to go",
        "purchase 10",
        "bronze_events",
        "1,000,000",
        "1.0 GiB",
        "failed",
        "disk full",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (86_400, "1 d"), (90_061, "1 d 1 h")]
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert display.span(seconds) == text


def test_bars() -> None:
    assert display.sparkline([]) == ""
    assert display.sparkline([5, 5]) == "▁▁"
    assert display.sparkline([0, 7]) == "▁█"
