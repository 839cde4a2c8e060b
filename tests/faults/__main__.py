"""`python -m tests.faults [--rounds N] [--seed S]`: kills servers in the middle of things, and checks what is left."""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.driver import Report, Run, rounds_of

ROUNDS_PER_FOLDER = 10  # so many servers live and die on one data folder, then it is checked and a new one begun


async def play(seed: int, rounds: int, folder: Path) -> Report:
    """One run, in a folder of its own."""
    return await Run(folder, seed).play(rounds_of(seed, rounds))


def main() -> int:
    """Plays rounds in runs of ROUNDS_PER_FOLDER, each with the next seed; stops at the first that breaks a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how often a server is killed (20)")
    parser.add_argument("--seed", type=int, help="of the first run; else the clock's")
    parser.add_argument("--folder", type=Path, help="for data folders and journals; else a temporary one")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="penstock-faults-"))
    left = arguments.rounds
    while left > 0:
        rounds = min(left, ROUNDS_PER_FOLDER)
        own = folder / str(seed)
        shutil.rmtree(own, ignore_errors=True)  # of an earlier run that failed
        report = asyncio.run(play(seed, rounds, own))
        print(report, flush=True)
        if report.wrong:
            print(*report.wrong, f"journal: {report.journal}", sep="\n  ")
            print(f"again: python -m tests.faults --seed {seed} --rounds {rounds}")
            return 1
        shutil.rmtree(own)
        left -= rounds
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
