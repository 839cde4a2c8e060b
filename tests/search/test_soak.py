"""Many clients change, search, page and recommend at once; `python -m tests.faults.soak` does it for longer."""

from pathlib import Path

import pytest

from tests.faults.soak import soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = 30.0
CLIENTS = 16
# After its warm-up memory may still come to this multiple: versions that pages hold on to fill up for INDEX_PIN_S, and
# the engine's caches for a minute or two. Of 5 minutes the second half is flat: 829 to 845 MB.
GROWTH_MAX = 1.35


async def test_every_answer_agrees_with_what_was_acknowledged(tmp_path: Path) -> None:
    report = await soak(tmp_path, SECONDS, CLIENTS, seed=1)
    print(report)
    assert {"stored", "removed", "browse", "page", "like", "compare", "recommend"} == set(report.calls)
    memory = [megabytes for _, megabytes in report.settled_mb]
    assert max(memory) < GROWTH_MAX * memory[0]
