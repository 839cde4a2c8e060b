"""`python -m loadtest [NAME]`: runs one benchmark, or all that take less than a minute."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from loadtest.benchmarks import BENCHMARKS, Benchmark
from loadtest.plot import draw
from loadtest.result import Result

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
RESULTS = Path(__file__).parent / "results"
BEYOND_S = 900.0  # what one may take beyond its load: start, drain, a slow machine, the first making of its data
ONE_S_MAX = 60.0 + BEYOND_S  # of a run without a name


@app.command()
def main(
    name: Annotated[str | None, typer.Argument(help="Which; all of a minute or less when absent.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few seconds each: shows that it works, not how fast it is.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(min=1, max=3_600, help="Length of the steady load.")] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Names them.")] = False,
) -> None:
    """Measures Penstock against limits taken in the same run, on this machine, over the loopback."""
    if list_names:
        for each, benchmark in BENCHMARKS.items():
            print(f"{each:27} {benchmark.what}")
        return
    if name is None:
        raise typer.Exit(_run_all(quick=quick))
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(BENCHMARKS)}")
    print(uvloop.run(_run(name, BENCHMARKS[name], quick=quick, seconds=seconds)).line(), flush=True)


async def _run(name: str, benchmark: Benchmark, *, quick: bool, seconds: float | None) -> Result:
    scale = benchmark.quick if quick else benchmark.full
    if seconds is not None:
        scale = replace(scale, steady_s=seconds)
    async with asyncio.timeout(scale.steady_s + BEYOND_S):
        return await benchmark.run(name, scale)


def _run_all(*, quick: bool) -> int:
    """Runs each in a process of its own, so that none inherits another's memory or event loop; 1 when one failed."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.jsonl"
    failed = 0
    lines: list[str] = []
    for name, benchmark in BENCHMARKS.items():
        if not benchmark.in_all:
            continue
        command = [sys.executable, "-m", "loadtest", name, *(["--quick"] if quick else [])]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=ONE_S_MAX, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
            continue
        line = done.stdout.splitlines()[-1]
        print(line, flush=True)
        lines.append(line)
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    if lines:
        draw([json.loads(line) for line in lines], file.with_suffix(".png"))
        print(f"written: {file}, {file.with_suffix('.png')}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    app(prog_name="python -m loadtest")
