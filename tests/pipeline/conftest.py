"""Fixtures of the pipeline's tests."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline import bronze
from tests.pipeline.bronze import Sent

Commit = Callable[..., Awaitable[int]]


@pytest.fixture
async def runner(engine: Engine, commit_log: CommitLog, settings: Settings) -> AsyncIterator[PipelineRunner]:
    """An open runner whose loop is not started."""
    opened = PipelineRunner(engine, commit_log, settings)
    await opened.open()
    yield opened
    await opened.stop()


@pytest.fixture
def commit(engine: Engine, commit_log: CommitLog) -> Commit:
    """Commits the given events to bronze; the commit's number."""

    async def commit(*events: Sent) -> int:
        sent: Sequence[Sent] = events
        return await bronze.commit(engine, commit_log, sent)

    return commit
