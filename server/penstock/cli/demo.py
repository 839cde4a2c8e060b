"""`penstock demo`, which is `make run`: a stack of its own, a real shop's orders beside a played shop, live figures."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from penstock import startup
from penstock.cli import display
from penstock.cli.child import Stack, running_stack
from penstock.cli.feed import ONLINE_RETAIL as REAL_SITE
from penstock.cli.feed import shipped_orders
from penstock.cli.remote import connected
from penstock.cli.running import CommandError, run
from penstock.cli.screen import Replayed, Site, Totals, screen, summary
from penstock.cli.serve import settings_of
from penstock.settings import Settings
from penstock.signals import stop_event
from penstock_client import Client
from penstock_client.replay import ReplayOptions, ReplayProgress, replay
from penstock_client.simulate import SITE_ID as PLAYED_SITE
from penstock_client.simulate import SimulateOptions, simulate

FOLDER = Path(".penstock") / "demo"
MARKER = "made-by-penstock-demo"
CURRENCY = "GBP"  # the real shop's
REAL_WINDOW = timedelta(days=366)  # the ten months that the orders span, so the figures grow to their totals
PLAYED_WINDOW = timedelta(minutes=5)  # short, so that the rate is seen to move
INTERVAL = timedelta(milliseconds=500)
REPORT_S = 1.0  # between lines where there is no terminal to draw on


def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Print a summary and stop once the replay is in the figures.")
    ] = False,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="A folder of the demo's own; what an earlier one left there is removed.")
    ] = FOLDER,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="Port for gRPC; 0 picks a free one.")] = None,
    http_port: Annotated[int | None, typer.Option("--http-port", help="Port for REST; 0 picks a free one.")] = None,
) -> None:
    """Starts a stack, replays the real orders of Online Retail beside a simulated shop, and shows live KPIs."""
    settings = settings_of(data_dir=data_dir, grpc_port=grpc_port, http_port=http_port, currency=CURRENCY)
    run(_demo(settings, leave))


async def _demo(settings: Settings, leave: bool) -> int:
    stop = stop_event()
    console = Console(highlight=False)
    startup.check_ports(settings, rest=True)
    _clear(settings)
    console.print("starting the server and Envoy …")
    async with running_stack(settings, stop, log=settings.data_dir / "server.log") as stack:
        if stack is None:
            return 0
        grpc, rest = f"{settings.grpc_host}:{stack.grpc_port}", f"http://{settings.http_host}:{stack.http_port}"
        async with connected(grpc) as client:
            show = _Show(stack, grpc, rest)
            with _drawn(console, show) if console.is_terminal else _told(console, show):
                await show.play(client, stop, leave)
            if show.replayed.seconds is not None:
                await client.pipeline.run()
                console.print(summary(await _totals(client, show.replayed), grpc=grpc, rest=rest))
        console.print("stopping …")
    return 0


def _clear(settings: Settings) -> None:
    """Removes what an earlier demo left: the orders are moved to now, and its own lie where now was then.

    Raises CommandError for a folder that no demo made, StartupError for one in use.
    """
    folder = settings.data_dir
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise CommandError(f"{folder} holds something that no demo made: give an empty folder with --data-dir")
    with startup.data_folder(settings):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != startup.LOCK:
                path.unlink()
        (folder / MARKER).touch()


class _Show:
    """What goes on, as far as the screen shows it."""

    def __init__(self, stack: Stack, grpc: str, rest: str) -> None:
        self._stack = stack
        self._grpc = grpc
        self._rest = rest
        self._orders = shipped_orders()
        self._real = Site(
            REAL_SITE,
            f"{REAL_SITE} · REAL orders",
            "ten months, moved to now · UCI Online Retail, CC BY 4.0",
            "green",
        )
        self._played = Site(
            PLAYED_SITE, f"{PLAYED_SITE} · SIMULATED", "5 minutes · made up by penstock simulate", "magenta"
        )
        self.replayed = Replayed(pq.read_metadata(self._orders.path).num_rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield screen(
            (self._real, self._played),
            self.replayed,
            grpc=self._grpc,
            rest=self._rest,
            log=str(self._stack.log),
            width=options.max_width,
        )

    async def play(self, client: Client, stop: asyncio.Event, leave: bool) -> None:
        """Replays, simulates and watches until told to stop, or, to `leave`, until the replay is done.

        Raises what goes wrong in any of it, CommandError when the stack dies.
        """
        replaying = asyncio.create_task(self._replay(client))
        background: list[asyncio.Task[object]] = [
            asyncio.create_task(simulate(client, SimulateOptions())),
            asyncio.create_task(self._watch(client, self._real, REAL_WINDOW)),
            asyncio.create_task(self._watch(client, self._played, PLAYED_WINDOW)),
            asyncio.create_task(self._stack.ended()),
        ]
        stopped = asyncio.create_task(stop.wait())
        try:
            enough = {stopped, *background, *([replaying] if leave else [])}
            await asyncio.wait(enough | {replaying}, return_when=asyncio.FIRST_COMPLETED)
            if replaying.done():
                await replaying
                await asyncio.wait(enough, return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done():
                    await task
        finally:
            for task in (replaying, stopped, *background):
                task.cancel()
            await asyncio.gather(replaying, stopped, *background, return_exceptions=True)

    async def _replay(self, client: Client) -> None:
        def moved(progress: ReplayProgress) -> None:
            self.replayed.rows = progress.rows_settled

        result = await replay(client, self._orders, ReplayOptions(now=True), moved)
        self.replayed.end(result.rows_accepted + result.rows_rejected, result.seconds)

    async def _watch(self, client: Client, site: Site, window: timedelta) -> None:
        async for metrics in client.kpis.watch(site_id=site.site_id, window=window, interval=INTERVAL):
            site.update(metrics)


@contextmanager
def _drawn(console: Console, show: _Show) -> Iterator[None]:
    with Live(show, console=console, refresh_per_second=4, screen=False):
        yield


@contextmanager
def _told(console: Console, show: _Show) -> Iterator[None]:
    """Without a terminal: a line now and then."""

    async def report() -> None:
        while show.replayed.seconds is None:
            await asyncio.sleep(REPORT_S)
            console.print(f"{display.count(show.replayed.rows)} of {display.count(show.replayed.total)} rows")

    reporting = asyncio.create_task(report())
    try:
        yield
    finally:
        reporting.cancel()


async def _totals(client: Client, replayed: Replayed) -> Totals:
    newest = (await client.kpis.metrics(site_id=REAL_SITE, window=REAL_WINDOW)).latest_kpis
    return Totals(
        site_id=REAL_SITE,
        rows=replayed.rows,
        rows_per_second=replayed.rate,
        orders=newest.orders,
        gmv=newest.gmv,
        currency=newest.currency,
        customers=newest.purchase_users,
    )
