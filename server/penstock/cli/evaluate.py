"""`penstock evaluate`: how good searches and recommendations are, found out through the calls that a shop makes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.cli import display
from penstock.cli import evaluate_recommendations as recommending
from penstock.cli import evaluate_search as searching
from penstock.cli.evaluate_recommendations import How, Outcome
from penstock.cli.evaluate_search import Judgements, Quality
from penstock.cli.evaluate_server import asked, parse_mapping, rows_of, shelve
from penstock.cli.running import CommandError, run
from penstock.recommendations.evaluation import Report
from penstock_client.feedback import InteractionType
from penstock_client.search import Mode

MODES: tuple[Mode, ...] = ("hybrid", "lexical", "vector")
SEARCH_COLUMNS = ("query", "relevance", "product_id", "title", "description")
HISTORY_COLUMNS = ("user_id", "product_id", "time", "type", "rating", "title")

app = typer.Typer(no_args_is_help=True, help="Measures how good searches or recommendations are.")

Files = Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, metavar="FILE…")]
Map = Annotated[list[str] | None, typer.Option("--map", metavar="NAME=COLUMN,…", help="Which column is which.")]
Server = Annotated[
    str,
    typer.Option("--server", metavar="HOST:PORT", help="A server that runs; without it one is started, and goes away."),
]
Load = Annotated[
    bool, typer.Option("--load", help="With --server: store there what the file has. Use a server for nothing else.")
]
Json = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the figures there, too.")]
Delimiter = Annotated[str, typer.Option("--delimiter", help="What separates the columns of a CSV file.")]


@app.command()
def search(
    files: Files,
    mapping: Map = None,
    server: Server = "",
    load: Load = False,
    json: Json = None,
    delimiter: Delimiter = ",",
) -> None:
    """How well searches find what people judged to be relevant: NDCG, MRR and hit rate of the first ten results.

    FILE has a row for each judgement: query, relevance, and product_id, or title and description. A server of its own
    gets these products; one that runs is asked for its own, so the file must have product ids.
    """
    mapped = _mapping(mapping, SEARCH_COLUMNS)
    stored = not server or load
    needs = ("query", "relevance", "title" if stored else "product_id")
    try:
        judged = _judgements(files, mapped, needs, delimiter)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run(_search(judged, server, stored, json))


@app.command()
def recommendations(
    files: Files,
    mapping: Map = None,
    split: Annotated[
        Literal["last", "time", "both"],
        typer.Option(
            "--split", help="Hold out each user's last product, the newest fifth of all, or do one after the other."
        ),
    ] = "both",
    kind: Annotated[
        InteractionType, typer.Option("--type", help="What an interaction is that has neither type nor rating.")
    ] = "click",
    server: Server = "",
    load: Load = False,
    json: Json = None,
    delimiter: Delimiter = ",",
) -> None:
    """How well recommendations foresee what users did next: HR, NDCG, MRR and coverage at 10 and 20.

    FILE has a row for each interaction: user_id, product_id, time, and type, rating and title where there are any. A
    part of it is held out, the server is told the rest and learns, and each user's FEED is looked through for it. All
    products are candidates but those that the user had.
    """
    mapped = _mapping(mapping, HISTORY_COLUMNS)
    hows = list(How) if split == "both" else [How(split)]
    if server and split == "both":
        raise typer.BadParameter("a server that was told of one split knows what the other holds out: give --split")
    try:
        told = recommending.joined(
            [
                recommending.history(
                    rows_of(file, mapped, needs=("user_id", "product_id", "time"), delimiter=delimiter), kind
                )
                for file in files
            ]
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run(_recommendations(told, hows, server, not server or load, json))


def _mapping(given: list[str] | None, names: Sequence[str]) -> Mapping[str, str]:
    try:
        return parse_mapping(given or [], names)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _judgements(files: Sequence[Path], mapped: Mapping[str, str], needs: Sequence[str], delimiter: str) -> Judgements:
    return searching.judgements([rows_of(file, mapped, needs=needs, delimiter=delimiter) for file in files])


async def _search(judged: Judgements, server: str, stored: bool, json: Path | None) -> int:
    console = Console(highlight=False)
    found: dict[Mode, Quality] = {}
    async with asked(server) as client:
        if stored:
            with console.status(f"storing and encoding {display.count(len(judged.products))} products …"):
                await shelve(client, judged.products)
        for mode in MODES:
            with console.status(f"searching: {mode} …"):
                answers = await searching.searched(client, judged.relevance, mode)
            try:
                found[mode] = searching.quality(judged, answers)
            except ValueError as error:
                raise CommandError(str(error)) from None
    console.print(_search_report(judged, found))
    if json is not None:
        figures = {mode: asdict(each) for mode, each in found.items()}
        counts = {"queries": len(judged.relevance), "products": len(judged.products), "at": searching.CUT}
        _write(json, {**counts, "modes": figures})
    return 0


async def _recommendations(
    told: recommending.History, hows: Sequence[How], server: str, stored: bool, json: Path | None
) -> int:
    console = Console(highlight=False)
    outcomes: dict[How, Outcome] = {}
    for how in hows:
        split, rows = told.split(how)
        if not split.held_out:
            raise CommandError(f"{split.name}: there is no user of whom something can be held out")
        async with asked(server) as client:
            if stored:
                with console.status("storing products and interactions, and learning …"):
                    await shelve(client, recommending.products_of(told))
                    await recommending.load(client, told, split, rows, how)
            with console.status(f"asking for {display.count(len(split.held_out))} users …"):
                found = await recommending.asked(client, split)
        outcomes[how] = recommending.judged(split, found, len(set(told.products)))
        console.print(_recommendations_report(outcomes[how]))
    if json is not None:
        figures = {
            how.value: {"server": orjson.loads(each.server.json()), "popularity": orjson.loads(each.popularity.json())}
            for how, each in outcomes.items()
        }
        _write(json, figures)
    return 0


def _write(file: Path, figures: Mapping[str, object]) -> None:
    file.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))


def _search_report(judged: Judgements, found: Mapping[Mode, Quality]) -> RenderableType:
    title = f"Search: {display.count(len(judged.relevance))} queries, {display.count(len(judged.products))} products"
    table = Table(box=box.SIMPLE)
    table.add_column("mode")
    for name in ("NDCG@10", "MRR@10", "hit rate@10", "judged"):
        table.add_column(name, justify="right")
    for mode, of in found.items():
        figures = (f"{of.ndcg:.4f}", f"{of.mrr:.4f}", f"{of.hit_rate:.4f}", f"{of.judged:.0%}")
        table.add_row(mode, *figures, style="bold" if mode == MODES[0] else "")
    how = (
        f"NDCG: a relevance gains 2^(relevance - {judged.worthless:g}) - 1; results that nobody judged gain nothing.\n"
        f"MRR and hit rate: a relevance above {judged.middle:g} is a hit. judged: share of the results that are."
    )
    return Group(Text(title, style="bold"), table, Text(how, style="dim"))


def _recommendations_report(of: Outcome) -> RenderableType:
    report = of.server
    counted = f"{display.count(report.users)} users, {display.count(report.products)} products"
    table = Table("", box=box.SIMPLE)
    for name in ("HR", "NDCG", "MRR", "coverage"):
        table.add_column(name, justify="right")
    for cut in report.at:
        table.add_row(f"recommended @{cut}", *_figures(report, cut), style="bold")
        table.add_row(Text(f"popularity @{cut}", style="dim"), *_figures(of.popularity, cut))
    return Group(Text(f"Recommendations, {report.split}: {counted}", style="bold"), table)


def _figures(report: Report, cut: int) -> Sequence[str]:
    of = report.at[cut]
    return [f"{value:.4f}" for value in (of.hit_rate, of.ndcg, of.mrr, of.coverage)]
