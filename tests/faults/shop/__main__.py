"""`python -m tests.faults.shop [--rounds N] [--seed S]`: kills servers with products, and checks what is left."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.shop.driver import Run, rounds_of


def main() -> int:
    """Plays one run."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.shop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="how often a server is ended (12)")
    parser.add_argument("--seed", type=int, help="else the clock's")
    parser.add_argument("--folder", type=Path, help="for data folder and journal; else a temporary one")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="penstock-shop-faults-"))
    report = asyncio.run(Run(folder, seed).play(rounds_of(seed, arguments.rounds)))
    print(report, *report.wrong, f"journal: {report.journal}", sep="\n")
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
