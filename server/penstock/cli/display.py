"""What the terminal shows: contract messages in, rich renderables out. No call, no clock, no state."""

from collections.abc import Sequence
from datetime import UTC, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from penstock.kpis.v1 import kpis_service_pb2
from penstock.kpis.v1.kpis_pb2 import KpiWindow
from penstock.operations.v1 import operations_pb2, operations_service_pb2
from penstock.pipeline.v1 import pipeline_pb2, pipeline_service_pb2

NONE = "–"
BARS = "▁▂▃▄▅▆▇█"
STATE_STYLES = {"up": "green", "degraded": "yellow", "down": "bold red"}
EVENT_TYPES_SHOWN = 6


def count(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def money(value: float | None, currency: str) -> str:
    """An amount, to the hundredth."""
    return NONE if value is None else f"{currency} {value:,.2f}"


def percent(value: float | None) -> str:
    """A ratio, to the hundredth of a percent; a dash where there is none, which is not zero."""
    return NONE if value is None else f"{value:.2%}"


def size(value: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def moment(stamp: Timestamp) -> str:
    """A time in UTC, to the minute."""
    return f"{stamp.ToDatetime(UTC):%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = timedelta(seconds=round(seconds))
    hours, rest = divmod(left.seconds, 3600)
    parts = [(left.days, "d"), (hours, "h"), (rest // 60, "min"), (rest % 60, "s")]
    first = next((index for index, (value, _) in enumerate(parts) if value), 3)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2] if value or first == 3)


def sparkline(values: Sequence[float]) -> str:
    """The values as bars, from the least to the greatest of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    steps = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * steps)] for value in values)


def metrics(
    answer: kpis_service_pb2.GetMetricsResponse | None,
    *,
    title: str,
    subtitle: str = "",
    history: Sequence[float] = (),
    style: str = "cyan",
) -> Panel:
    """One site's latest window. `history` are GMV values of the windows before, oldest first, for the bars."""
    body: RenderableType
    if answer is None:
        body = Text("waiting for the first figures …", style="dim")
    elif not answer.HasField("latest_kpis"):
        body = Text(answer.reason, style="dim")
    else:
        body = Group(_window(answer.latest_kpis, history), _around(answer))
    return Panel(body, title=title, subtitle=subtitle or None, border_style=style, title_align="left")


def _window(window: KpiWindow, history: Sequence[float]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(2):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", style="bold", no_wrap=True)
    conversion = window.conversion_rate if window.HasField("conversion_rate") else None
    average = window.average_order_value if window.HasField("average_order_value") else None
    net = money(window.revenue_net, window.currency)
    table.add_row("orders", count(window.orders), "GMV", money(window.gmv, window.currency))
    table.add_row("buyers", count(window.purchase_users), "average order", money(average, window.currency))
    table.add_row("viewers", count(window.view_users), "refunds", money(window.refunds, window.currency))
    table.add_row("conversion", Text(percent(conversion), style="bold green"), "net revenue", net)
    table.add_row("page views", count(window.page_views), "add to cart", count(window.add_to_carts))
    table.add_row("active users", count(window.active_users), "GMV so far", Text(sparkline(history), style="cyan"))
    return table


def _around(answer: kpis_service_pb2.GetMetricsResponse) -> Text:
    window, fresh = answer.latest_kpis, answer.freshness
    busiest = sorted(answer.recent_events.items(), key=lambda item: -item[1])[:EVENT_TYPES_SHOWN]
    recent = "  ".join(f"{name} {count(number)}" for name, number in busiest) or "none"
    late = f"{fresh.lag_seconds:.1f} s behind" if fresh.lag_seconds else "up to date"
    return Text(
        f"\nwindow {moment(window.window_start)} → {moment(window.window_end)} UTC · {late}, commit {fresh.commit}"
        f"\nits last hour: {recent}",
        style="dim",
    )


def status(answer: operations_service_pb2.GetStatusResponse) -> RenderableType:
    """The server's state in full."""
    style = {"healthy": "bold green", "degraded": "bold yellow"}.get(answer.status, "bold red")
    head = Text.assemble(
        "Penstock ", (answer.version, "bold"), "  ", (answer.status, style), f"  up {span(answer.uptime_seconds)}"
    )
    dependencies = Table("part", "state", "check", "detail", box=box.SIMPLE, title="Parts", title_justify="left")
    for each in answer.dependencies:
        dependencies.add_row(each.name, _state(each), f"{each.latency_ms:.1f} ms", each.detail)
    ingest = answer.ingest
    figures = Table.grid(padding=(0, 2))
    for name, value in (
        ("rows accepted", count(ingest.rows_accepted)),
        ("rows rejected", count(ingest.rows_rejected)),
        ("commits", f"{count(ingest.commits)}, newest {ingest.last_commit}"),
        ("open streams", count(ingest.open_streams)),
        ("waiting", f"{ingest.queued_batches} batches, {size(ingest.queued_bytes)}"),
        ("memory", size(answer.memory_bytes)),
        ("event loop late", f"{answer.event_loop_lag_ms_max:.1f} ms at most in the last minute"),
        ("made of", ", ".join(f"{name} {version}" for name, version in sorted(answer.versions.items()))),
    ):
        figures.add_row(Text(name, style="dim"), value)
    return Group(head, dependencies, figures)


def _state(dependency: operations_pb2.Dependency) -> Text:
    name = operations_pb2.Dependency.State.Name(dependency.state).removeprefix("STATE_").lower()
    return Text(name, style=STATE_STYLES.get(name, ""))


def pipeline(answer: pipeline_service_pb2.GetPipelineStatusResponse) -> RenderableType:
    """How the pipeline stands."""
    waiting = ", ".join(f"{name} {count(rows)}" for name, rows in sorted(answer.unprocessed.items()))
    head = Text.assemble(
        ("Pipeline ", "bold"),
        f"commit {answer.processed_commit} of {answer.last_commit} is in gold, "
        f"{answer.lag_commits} to go ({answer.lag_seconds:.1f} s)" + (f"; waiting: {waiting}" if waiting else ""),
    )
    tables = Table("table", box=box.SIMPLE)
    for name in ("rows", "bytes"):
        tables.add_column(name, justify="right")
    for each in answer.tables:
        tables.add_row(each.name, count(each.rows), size(each.bytes))
    return Group("", head, tables, _runs(answer.recent_runs))


def _runs(recent: Sequence[pipeline_pb2.Run]) -> Table:
    table = Table("run", "began", "state", box=box.SIMPLE)
    for name in ("rows", "ms"):
        table.add_column(name, justify="right")
    table.add_column("error")
    for run in recent:
        state = pipeline_pb2.Run.State.Name(run.state).removeprefix("STATE_").lower()
        rows = run.steps[0].rows_in if run.steps else 0
        table.add_row(str(run.run), moment(run.start_time), state, count(rows), f"{run.duration_ms:,.0f}", run.error)
    return table
