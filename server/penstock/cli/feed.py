"""`penstock replay` and `penstock simulate`: events from a file, and events of a shop that is made up."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from penstock.cli import display
from penstock.cli.kpis import span_of
from penstock.cli.remote import DEFAULT_ADDRESS, Address, connected
from penstock.cli.running import CommandError, run
from penstock_client import WriterStats
from penstock_client.replay import (
    PRESETS,
    ReplayOptions,
    ReplayProgress,
    ReplayResult,
    ReplaySource,
    parse_mapping,
)
from penstock_client.replay import (
    replay as replay_file,
)
from penstock_client.simulate import SITE_ID, SimulateOptions
from penstock_client.simulate import simulate as simulate_shop

ONLINE_RETAIL = "online-retail"
RETRY_S = 120.0  # a replay waits this long for a server that restarts; it goes on where it was


def shipped_orders() -> ReplaySource:
    """The orders of Online Retail that come with Penstock."""
    path = Path(str(files("penstock_client").joinpath("data", "online_retail.parquet")))
    return ReplaySource(path, PRESETS[ONLINE_RETAIL])


def replay(
    file: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            metavar="[FILE]",
            help=".csv, .tsv, .ndjson or .jsonl, also as .xz or .gz, or .parquet. Without one: the orders of Online "
            "Retail that come with Penstock.",
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="What a field of an event is read from: a column, or a constant in "
            f"quotes; once for each. Or one of the presets {', '.join(sorted(PRESETS))}. Columns that are named as "
            "fields need none, others become properties.",
        ),
    ] = None,
    stream: Annotated[
        str, typer.Option("--stream", help="Replay to the same stream again to go on there.", show_default="from FILE")
    ] = "",
    site: Annotated[str, typer.Option("--site", help="Site of all events.", show_default="as the rows say")] = "",
    speed: Annotated[
        str,
        typer.Option("--speed", metavar="60x", help="So many times as fast as it happened.", show_default="no pause"),
    ] = "",
    now: Annotated[bool, typer.Option("--now", help="Move all times so that the last event is of now.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many rows of the file.")] = None,
    delimiter: Annotated[str, typer.Option("--delimiter", help="What separates the columns of a CSV file.")] = ",",
    header: Annotated[bool, typer.Option(help="Whether a CSV file has one; without: columns c1, c2, …")] = True,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Sends a file of events, exactly once: after Ctrl-C the same command goes on where it was."""  # fmt: skip
    try:
        source = _source(file, mapping or [], delimiter, header)
        options = ReplayOptions(stream, site, _times_as_fast(speed), now, limit)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run(_replay(address, source, options))


def _source(file: Path | None, mapping: list[str], delimiter: str, header: bool) -> ReplaySource:
    if file is None and not mapping:
        return shipped_orders()
    return ReplaySource(file or shipped_orders().path, parse_mapping(mapping, delimiter=delimiter, header=header))


def _times_as_fast(text: str) -> float | None:
    return float(text.removesuffix("x")) if text else None


async def _replay(address: str, source: ReplaySource, options: ReplayOptions) -> int:
    console = Console(highlight=False)
    columns = (TextColumn(source.path.name), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"))
    async with connected(address, retry_s=RETRY_S) as client:
        with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("", total=1.0, rows="")

            def moved(progress: ReplayProgress) -> None:
                rows = f"{display.count(progress.rows_settled)} rows"
                bar.update(task, completed=progress.fraction, rows=rows)

            try:
                result = await replay_file(client, source, options, moved)
            except ValueError as error:
                raise CommandError(str(error)) from error
            bar.update(task, completed=1.0)
    console.print(_told(result))
    return 0


def _told(result: ReplayResult) -> str:
    rate = display.count((result.rows_accepted + result.rows_rejected) / max(result.seconds, 1e-3))
    lines = [
        f"{display.count(result.rows_accepted)} rows stored in {display.span(result.seconds)} ({rate}/s), "
        f"stream {result.stream_id}"
    ]
    if result.rows_skipped:
        lines.append(f"{display.count(result.rows_skipped)} rows were there already, from an earlier run")
    if result.rows_rejected:
        reasons = ", ".join(f"{reason} {display.count(rows)}" for reason, rows in sorted(result.reasons.items()))
        lines.append(f"{display.count(result.rows_rejected)} rows were rejected ({reasons}); see /v1/events:rejected")
    return "\n".join(lines)


def simulate(
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Events a second, as a mean over the day.")] = 50.0,
    duration: Annotated[
        str, typer.Option("--duration", metavar="SPAN", show_default="until Ctrl-C", help="For so long.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same visits.")] = 1,
    rhythm: Annotated[bool, typer.Option(help="Whether the shop is busier by day than by night (UTC).")] = True,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Plays the visitors of a made-up shop: they look around, fill carts, and some buy. All of it is labelled so."""
    seconds = span_of(duration).total_seconds() if duration else None
    run(_simulate(address, SimulateOptions(rate, seed, seconds, rhythm)))


async def _simulate(address: str, options: SimulateOptions) -> int:
    console = Console(highlight=False)
    async with connected(address, retry_s=RETRY_S) as client:
        with console.status(f"simulating visitors of {SITE_ID} …") as shown:

            def moved(stats: WriterStats) -> None:
                shown.update(f"simulating visitors of {SITE_ID}: {display.count(stats.rows_accepted)} events stored")

            stats = await simulate_shop(client, options, moved)
    console.print(f"{display.count(stats.rows_accepted)} simulated events stored, of site {SITE_ID}")
    return 0
