"""The fault tests notice when a protection is taken out of the server."""

import re
from functools import partial
from pathlib import Path

import pytest

from tests.faults.altered import AlteredServer
from tests.faults.driver import End, Report, Round, Run, Weather

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

TRIES = 3  # so many runs have the chance to notice


async def play(folder: Path, alteration: str, seed: int, end: str) -> Report:
    """One life of an altered server, and one after it; without the SDK, whose own checks would end it first."""
    run = Run(folder, seed, server=partial(AlteredServer, alteration), sdk=False)
    return await run.play([Round(Weather.CALM, End(end, nth=3), load_s=0.5)])


@pytest.mark.parametrize(
    ("alteration", "end", "noticed"),
    [
        ("log_before_rows", "commit.before_log", "is missing|rows of commit"),
        # Log rows that are still on the way when the run is checked are missed by the pipeline, too.
        ("acknowledge_before_log", "kill", "(was|were) acknowledged|commits are not in gold"),
        ("keep_void_rows", "commit.before_log", "rows of commit|is there 2 times|fault in the server"),
        ("keep_void_runs", "pipeline.after_gold", "silver|gold|pipeline: it cannot run"),
        ("any_offset", "kill", "STORED instead of OFFSET_"),
        ("keep_repetitions", "drain", "silver: .* more than once"),
    ],
)
async def test_a_protection_that_is_taken_out_is_missed(
    tmp_path: Path, alteration: str, end: str, noticed: str
) -> None:
    for seed in range(TRIES):
        report = await play(tmp_path / str(seed), alteration, seed, end)
        if report.wrong:
            assert re.search(noticed, "\n".join(report.wrong)), f"noticed something else: {report.wrong}"
            return
    pytest.fail(f"nobody noticed {alteration} in {TRIES} runs")


@pytest.mark.parametrize("end", ["commit.before_log", "pipeline.after_gold"])
async def test_with_all_protections_in_place_the_same_runs_find_nothing(tmp_path: Path, end: str) -> None:
    report = await play(tmp_path, "nothing", 0, end)
    assert not report.wrong, f"{report.wrong}, journal: {report.journal}"
