"""`penstock kpis`: the latest figures, once or live."""

import re
from collections import deque
from datetime import timedelta
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.live import Live

from penstock.cli import display
from penstock.cli.remote import DEFAULT_ADDRESS, Address, connected
from penstock.cli.running import run

HISTORY = 20  # values behind the bars: as many as fit beside their label
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def span_of(text: str) -> timedelta:
    """`90s`, `15m`, `24h`, `31d`. Raises typer.BadParameter for anything else."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter("give a number and a unit, such as 500ms, 90s, 15m, 24h or 31d")
    return timedelta(seconds=float(match[1]) * _UNIT_S[match[2]])


def kpis(
    address: Address = DEFAULT_ADDRESS,
    site: Annotated[str, typer.Option("--site", help="Only this site.", show_default="all")] = "",
    window: Annotated[str, typer.Option("--window", metavar="SPAN", help="Length of the window, 1m to 366d.")] = "1h",
    interval: Annotated[
        str, typer.Option("--interval", metavar="SPAN", help="With --watch: one change in so long at most.")
    ] = "1s",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow them until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with --watch one line a change.")] = False,
) -> None:
    """Shows the KPIs of the latest window: the one that ends with the newest minute that has events."""
    length, pause = span_of(window), span_of(interval)
    if not watch:
        run(_once(address, site, length, as_json))
    run((_print_changes if as_json else _show_live)(address, site, length, pause))


async def _once(address: str, site: str, window: timedelta, as_json: bool) -> int:
    async with connected(address) as client:
        answer = await client.kpis.metrics(site_id=site, window=window)
    if as_json:
        typer.echo(MessageToJson(answer, preserving_proto_field_name=True))
    else:
        Console(highlight=False).print(display.metrics(answer, title=_title(site)))
    return 0


async def _print_changes(address: str, site: str, window: timedelta, interval: timedelta) -> int:
    async with connected(address) as client:
        async for answer in client.kpis.watch(site_id=site, window=window, interval=interval):
            typer.echo(MessageToJson(answer, preserving_proto_field_name=True, indent=None))
    return 0


async def _show_live(address: str, site: str, window: timedelta, interval: timedelta) -> int:
    history: deque[float] = deque(maxlen=HISTORY)
    async with connected(address) as client:
        with Live(display.metrics(None, title=_title(site)), auto_refresh=False) as live:
            async for answer in client.kpis.watch(site_id=site, window=window, interval=interval):
                history.append(answer.latest_kpis.gmv)
                shown = display.metrics(answer, title=_title(site), subtitle="Ctrl-C ends it", history=history)
                live.update(shown, refresh=True)
    return 0


def _title(site: str) -> str:
    return site or "all sites"
