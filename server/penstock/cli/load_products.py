"""`penstock load-products`: a catalogue from a file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from penstock.cli import display
from penstock.cli.feed import ONLINE_RETAIL, RETRY_S, shipped_orders
from penstock.cli.remote import DEFAULT_ADDRESS, Address, connected
from penstock.cli.running import CommandError, run
from penstock_client.product_files import (
    PRODUCT_PRESETS,
    LoadProgress,
    LoadResult,
    ProductMapping,
    ProductSource,
    load_products,
    parse_product_mapping,
)

REJECTED_SHOWN = 20


def load_products_command(
    file: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            metavar="[FILE]",
            help=".csv, .tsv, .ndjson or .jsonl, also as .xz or .gz, or .parquet. Without one, and with --preset "
            f"{ONLINE_RETAIL}: what the orders that come with Penstock say of their products.",
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN,…",
            help="What a field of a product is read from: a column, or a constant in quotes; fashion.NAME and "
            "attributes.NAME are fields, too. Columns that are named as fields need none, others become attributes.",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option("--preset", help=f"A known catalogue, in place of --map: {', '.join(sorted(PRODUCT_PRESETS))}."),
    ] = "",
    delimiter: Annotated[str, typer.Option("--delimiter", help="What separates the columns of a CSV file.")] = ",",
    header: Annotated[bool, typer.Option(help="Whether a CSV file has one; without: columns c1, c2, …")] = True,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Puts the products of a file into the catalogue; run again, it writes only what changed.

    Rows that are no products are left out and told, and make the exit code 1.
    """
    try:
        source = _source(file, mapping or [], preset, delimiter, header)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run(_load(address, source))


def _source(file: Path | None, mapping: list[str], preset: str, delimiter: str, header: bool) -> ProductSource:
    if preset and mapping:
        raise ValueError("give --preset or --map, not both")
    if file is None and preset != ONLINE_RETAIL:
        raise ValueError(f"give a FILE, or --preset {ONLINE_RETAIL} for the products of the orders that come along")
    if preset and preset not in PRODUCT_PRESETS:
        raise ValueError(f"{preset} is no preset; there are {', '.join(sorted(PRODUCT_PRESETS))}")
    meaning: ProductMapping = (
        PRODUCT_PRESETS[preset] if preset else parse_product_mapping(mapping, delimiter=delimiter, header=header)
    )
    return ProductSource(file or shipped_orders().path, meaning)


async def _load(address: str, source: ProductSource) -> int:
    console = Console(highlight=False)
    columns = (TextColumn(source.path.name), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"))
    async with connected(address, retry_s=RETRY_S) as client:
        with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("", total=1.0, rows="")

            def moved(progress: LoadProgress) -> None:
                bar.update(task, completed=progress.fraction, rows=f"{display.count(progress.rows)} rows")

            try:
                result = await load_products(client, source, moved)
            except ValueError as error:
                raise CommandError(str(error)) from error
    # Text, not markup: reasons quote what stands in the file, brackets and all.
    console.print(Text(told(result, "row" if source.path.suffix == ".parquet" else "line")))
    return 1 if result.rejected else 0


def told(result: LoadResult, place: str) -> str:
    """What a load did, in lines; `place` is what the file has: lines or rows."""
    lines = [
        f"{display.count(result.created)} products created, {display.count(result.updated)} updated, "
        f"{display.count(result.unchanged)} unchanged, {display.count(result.rejected)} rejected"
    ]
    if result.repeated:
        lines.append(f"{display.count(result.repeated)} rows left out: one before them has the same id")
    shown = result.errors[:REJECTED_SHOWN]
    lines += [f"  {place} {error.line}: {error.reason}: {error.message}" for error in shown]
    if result.rejected > len(shown):
        lines.append(f"  and {display.count(result.rejected - len(shown))} more")
    return "\n".join(lines)
