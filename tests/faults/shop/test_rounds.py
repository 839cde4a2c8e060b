"""Servers with products are killed in the middle of things; what was acknowledged is there, nothing else changed."""

from functools import partial
from pathlib import Path

import pytest

from tests.faults.shop.altered import AlteredServer
from tests.faults.shop.driver import ENDS, Report, Round, Run, rounds_of
from tests.faults.shop.spoil import Spoil

ROUNDS = 12
SEED = 20260101


def again(report: Report, rounds: int) -> str:
    """What a failure prints."""
    lines = [
        *report.wrong,
        f"journal: {report.journal}",
        f"again: python -m tests.faults.shop --seed {report.seed} --rounds {rounds}",
    ]
    return "\n".join(lines)


async def test_one_kill(tmp_path: Path) -> None:
    """The shortest of these runs, for every day."""
    report = await Run(tmp_path, SEED).play([Round(Spoil.KEPT, "kill", 0.7)], compare=False)
    assert not report.wrong, again(report, 1)
    assert report.changes > 0
    assert report.interactions > 0


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_nothing_is_lost_and_nothing_else_changes(tmp_path: Path) -> None:
    report = await Run(tmp_path, SEED).play(rounds_of(SEED, ROUNDS))
    print(report)
    assert not report.wrong, again(report, ROUNDS)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_nor_where_an_index_is_never_up_to_date(tmp_path: Path) -> None:
    """It takes over few products at a time, and is saved in between, so that it dies with half of a commit in it."""
    ends = ("kill", "drain", "catalogue.before_ack", "kill", "drain")
    run = Run(tmp_path, SEED, server=partial(AlteredServer, "small_steps"))
    report = await run.play([Round(Spoil.KEPT, end, 0.7, nth=4) for end in ends])
    print(report)
    assert not report.wrong, again(report, len(ends))


def test_the_rounds_have_every_end_and_every_fate_of_the_index() -> None:
    rounds = rounds_of(SEED, 12)
    assert {each.end for each in rounds} == set(ENDS)
    assert {each.spoil for each in rounds} == set(Spoil)
