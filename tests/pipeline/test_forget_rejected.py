"""Rejected rows go with the user whom they name, in whatever form they came; others stay, however alike they look."""

from collections.abc import Sequence

import pytest

from penstock.events.v1 import events_pb2
from penstock.pipeline import forget_rejected
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline import forgetting

USER = "gone"


def message(*, user_id: str = "", visitor_id: str = "", product_id: str = "") -> tuple[bytes, str]:
    event = events_pb2.Event(event_type="view", user_id=user_id, visitor_id=visitor_id, product_id=product_id)
    return event.SerializeToString(), "protobuf"


def text(raw: str) -> tuple[bytes, str]:
    return raw.encode(), "json"


MINE: Sequence[tuple[bytes, str]] = (
    message(user_id=USER),
    message(visitor_id=USER),
    text('{"event_type": "view", "user_id": "gone"}'),
    text('{"userId": "g\\u006fne", "price": "dear"}'),
    text('{"anonymousId": "gone", "properties": "none"}'),
    text('{"user_id": "gone", "event_type": '),
    text('["view", "gone"]'),
)
OTHERS: Sequence[tuple[bytes, str]] = (
    message(user_id="gone2"),
    message(product_id=USER),
    text('{"event_type": "gone", "user_id": "other"}'),
    text('{"user_id": "somebody", "properties": {"user_id": "gone"}}'),
    text('{"user_id": "gone2", "event_type": '),
    (b"\xff\xff gone", "protobuf"),
    (b'{"user_id": "\xff\xfe"', "json"),
)


@pytest.mark.parametrize("at_once", [2, 200])
async def test_rows_are_read_as_what_they_are(
    engine: Engine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(forget_rejected, "REJECTED_ROWS_READ", at_once)
    monkeypatch.setattr(forget_rejected, "REJECTED_IDS_DELETED", at_once)
    ids = await forgetting.reject(engine, commit_log, "default", [*MINE, *OTHERS], replayed=True)
    others = await forgetting.reject(engine, commit_log, "other", MINE, replayed=True)
    done = await forgetting.forgetter(engine, commit_log, runner, settings).forget("default", USER)
    assert (done.removed["rejected_events"], done.removed["rejected_replays"]) == (len(MINE), len(MINE))
    assert done.remaining["rejected_events"] == 0
    for table in ("rejected_events", "rejected_replays"):
        assert await forgetting.rejected_ids(engine, "default", table) == set(ids[len(MINE) :])
        assert await forgetting.rejected_ids(engine, "other", table) == set(others)


async def test_a_number_may_be_a_name(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings
) -> None:
    await forgetting.reject(engine, commit_log, "default", [text('{"client_id": 42, "quantity": "many"}')])
    done = await forgetting.forgetter(engine, commit_log, runner, settings).forget("default", "42")
    assert done.removed["rejected_events"] == 1
