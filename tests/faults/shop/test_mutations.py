"""The fault tests of products notice when a protection is taken out of the server."""

import re
from functools import partial
from pathlib import Path

import pytest

from tests.faults.shop.altered import AlteredServer
from tests.faults.shop.driver import Report, Round, Run
from tests.faults.shop.spoil import Spoil

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

TRIES = 3  # so many runs have the chance to notice


async def play(folder: Path, alteration: str, seed: int, spoil: Spoil, end: str) -> Report:
    """Three lives of an altered server."""
    run = Run(folder, seed, server=partial(AlteredServer, alteration))
    return await run.play([Round(Spoil.KEPT, "drain", 1.0), Round(spoil, end, 1.0, nth=3), Round(spoil, "kill", 0.3)])


@pytest.mark.parametrize(
    ("alteration", "spoil", "end", "noticed"),
    [
        ("acknowledge_before_log", Spoil.KEPT, "kill", "missing|version|not .* of commit"),
        ("keep_void_rows", Spoil.KEPT, "catalogue.before_log", "more|other|never logged|in no commit"),
        ("forget_requests", Spoil.KEPT, "kill", "once more|times|interactions"),
        ("trust_the_snapshot", Spoil.OLDER, "kill", "search: "),
        ("do_not_look_at_the_snapshot", Spoil.FLIPPED, "kill", "nobody noticed|search: |vectors: "),
        ("label_too_new", Spoil.KEPT, "kill", "search: "),
        ("lose_sessions", Spoil.KEPT, "kill", "the session of"),
    ],
)
async def test_a_protection_that_is_taken_out_is_missed(
    tmp_path: Path, alteration: str, spoil: Spoil, end: str, noticed: str
) -> None:
    for seed in range(TRIES):
        report = await play(tmp_path / str(seed), alteration, seed, spoil, end)
        if report.wrong:
            assert re.search(noticed, "\n".join(report.wrong)), f"noticed something else: {report.wrong}"
            return
    pytest.fail(f"nobody noticed {alteration} in {TRIES} runs")
