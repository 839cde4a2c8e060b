"""The demo's screen: which site is real and which is played, how far the replay is, and where to look further."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from penstock.cli import display
from penstock.kpis.v1.kpis_service_pb2 import GetMetricsResponse

BARS = 20
BESIDE_COLUMNS_MIN = 66  # a site's figures in two columns, in a panel
URLS = (
    ("/metrics", "the latest KPIs"),
    ("/sse/metrics", "the same, pushed"),
    ("/trend/revenue?window=86400s", "GMV by day"),
    ("/etl/status", "the pipeline"),
    ("/status", "the server"),
    ("/openapi.json", "every path"),
)


@dataclass(slots=True)
class Site:
    """One site's panel, and the figures that it last had."""

    site_id: str
    title: str
    subtitle: str
    style: str
    metrics: GetMetricsResponse | None = None
    gmv: deque[float] = field(default_factory=lambda: deque(maxlen=BARS))

    def update(self, metrics: GetMetricsResponse) -> None:
        """Shows newer figures."""
        self.metrics = metrics
        if metrics.HasField("latest_kpis"):
            self.gmv.append(metrics.latest_kpis.gmv)

    def panel(self) -> RenderableType:
        """The panel."""
        return display.metrics(
            self.metrics, title=self.title, subtitle=self.subtitle, history=list(self.gmv), style=self.style
        )


@dataclass(slots=True)
class Replayed:
    """How far the replay is."""

    total: int
    rows: int = 0  # acknowledged
    began: float = field(default_factory=time.perf_counter)
    seconds: float | None = None  # how long it took; None while it goes on

    def end(self, rows: int, seconds: float) -> None:
        """All rows are acknowledged."""
        self.rows, self.seconds = rows, seconds

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / max(self.seconds or time.perf_counter() - self.began, 1e-3)

    def line(self) -> RenderableType:
        """A progress bar and its numbers."""
        grid = Table.grid(padding=(0, 2))
        done, total, rate = (display.count(value) for value in (self.rows, self.total, self.rate))
        text = f"{done} of {total} rows acknowledged, {rate}/s"
        grid.add_row("replay", ProgressBar(self.total, self.rows, width=30), text)
        return grid


def screen(sites: Sequence[Site], replayed: Replayed, *, grpc: str, rest: str, log: str, width: int) -> RenderableType:
    """All of it; the sites side by side where `width` columns are enough for that."""
    return Group(
        _beside(sites) if width >= BESIDE_COLUMNS_MIN * len(sites) else Group(*(site.panel() for site in sites)),
        replayed.line(),
        "",
        _links(grpc, rest),
        Text(f"the server's log: {log}\nCtrl-C stops all of it.", style="dim"),
    )


def _beside(sites: Sequence[Site]) -> RenderableType:
    grid = Table.grid(expand=True)
    for _ in sites:
        grid.add_column(ratio=1)
    grid.add_row(*(site.panel() for site in sites))
    return grid


def _links(grpc: str, rest: str) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for path, what in URLS:
        grid.add_row(Text(rest + path, style=f"link {rest + path}"), Text(what, style="dim"))
    grid.add_row(grpc, Text("gRPC, with reflection", style="dim"))
    return grid


@dataclass(frozen=True, slots=True)
class Totals:
    """What the KPI service says of the real shop once the replay is in gold."""

    site_id: str
    rows: int
    rows_per_second: float
    orders: int
    gmv: float
    currency: str
    customers: int  # distinct


def summary(totals: Totals, *, grpc: str, rest: str) -> RenderableType:
    """The last words of a demo."""
    grid = Table.grid(padding=(0, 2))
    for name, value in (
        ("site", f"{totals.site_id} (real orders)"),
        ("rows", f"{display.count(totals.rows)}, {display.count(totals.rows_per_second)}/s acknowledged"),
        ("orders", display.count(totals.orders)),
        ("GMV", display.money(totals.gmv, totals.currency)),
        ("unique customers", display.count(totals.customers)),
    ):
        grid.add_row(Text(name, style="dim"), Text(value, style="bold"))
    return Group(Text("\nWhat the KPI service says", style="bold"), grid, "", _links(grpc, rest))
