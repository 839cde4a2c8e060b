"""What is learnt from is what is stored: feedback and events, of all users; and what came since is not forgotten."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from penstock.feedback.interactions import Interaction, Interactions
from penstock.pipeline.runner import PipelineRunner
from penstock.recommendations.behaviour import Behaviour
from penstock.recommendations.histories import Histories
from penstock.recommendations.models import Learnt
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from tests.pipeline import bronze
from tests.pipeline.bronze import Sent

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def did(user: str, product: str, kind: str = "CLICK", *, ago_s: float = 0, rating: float | None = None) -> Interaction:
    return Interaction(
        user, product, kind, NOW - timedelta(seconds=ago_s), f"{user}-{product}-{kind}-{ago_s}", rating=rating
    )


@pytest.fixture
async def stored(engine: ClickHouseEngine, commit_log: CommitLog) -> AsyncIterator[Interactions]:
    made = Interactions(engine, commit_log)
    made.start()
    yield made
    await made.stop()


async def test_feedback_and_events_are_read_with_their_weights(
    engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings, stored: Interactions
) -> None:
    kinds = ("VIEW", "CLICK", "LIKE", "SHARE", "ADD_TO_CART", "PURCHASE")
    await stored.store("default", [did("u", f"f-{kind}", kind) for kind in kinds])
    await stored.store("default", [did("u", f"f-{rating}", "RATING", rating=rating) for rating in (1.0, 3.0, 5.0)])
    await stored.store("other", [did("u", "theirs")])
    events = [
        Sent(event_type=kind, user_id="v", product_id=f"e-{kind}")
        for kind in ("page_view", "product_view", "click", "add_to_wishlist", "add_to_cart", "purchase", "refund")
    ]
    nobody = [Sent(product_id="x"), Sent(user_id="v"), Sent(visitor_id="w", product_id="e-visitor")]
    await bronze.commit(engine, commit_log, [*events, *nobody])
    runner = PipelineRunner(engine, commit_log, settings)
    await runner.open()
    await runner.run()
    await runner.stop()
    behaviour = Behaviour(engine, commit_log)
    read = await behaviour.read("default")
    weights = {
        (read.users[user], read.products[product]): round(float(weight), 6)
        for user, product, weight in zip(read.user, read.product, read.weight, strict=True)
    }
    feedback = {"VIEW": 0.1, "CLICK": 0.3, "LIKE": 0.5, "SHARE": 0.5, "ADD_TO_CART": 0.6, "PURCHASE": 1.0}
    ratings = {"1.0": -1.0, "3.0": 0.0, "5.0": 1.0}
    seen = {"page_view": 0.1, "product_view": 0.1, "click": 0.3}
    acted = {"add_to_wishlist": 0.5, "add_to_cart": 0.6, "purchase": 1.0}
    assert weights == {
        **{("u", f"f-{name}"): weight for name, weight in (feedback | ratings).items()},
        **{("v", f"e-{name}"): weight for name, weight in (seen | acted).items()},
        ("w", "e-visitor"): 0.1,
    }
    assert await behaviour.count("default") == len(weights)


async def test_an_interaction_is_stored_once_however_it_is_sent(commit_log: CommitLog, stored: Interactions) -> None:
    twice = [did("u", "a"), did("u", "a"), did("v", "a")]
    first = await stored.store("default", twice)
    again = await stored.store("default", twice)
    assert (len(first.fresh), len(again.fresh), again.commit) == (2, 0, 0)
    assert [each.product_id for each in await stored.last("default", "u", 10)] == ["a"]
    assert (await stored.summary("default", "u")).interactions == 1
    assert (await stored.summary("default", "nobody")).first is None


async def test_a_large_batch_is_stored_whole(stored: Interactions) -> None:
    many = [did(f"user-{number % 50}", f"product-{number}", ago_s=number) for number in range(5_000)]
    assert len((await stored.store("default", many)).fresh) == 5_000
    assert not (await stored.store("default", many)).fresh


async def test_a_history_is_what_was_learnt_and_what_came_since(
    engine: ClickHouseEngine, commit_log: CommitLog, stored: Interactions
) -> None:
    await stored.store("default", [did("u", "before"), did("v", "theirs")])
    learnt = Learnt(1, interactions=await Behaviour(engine, commit_log).read("default"), commit=commit_log.head)
    histories = Histories(stored, commit_log)
    assert (await histories.of("default", "u", learnt)).ids == ("before",)
    await stored.store("default", [did("u", "since", "PURCHASE")])
    histories.changed("default", "u")
    both = await histories.of("default", "u", learnt)
    assert both.ids == ("before", "since")
    assert np.allclose(both.weights, [0.3, 1.0])
    assert (await histories.of("default", "v", learnt)).ids == ("theirs",)
    await stored.store("default", [did("new", "first")])
    histories.changed("default", "new")
    assert (await histories.of("default", "new", learnt)).ids == ("first",)
    assert not len(await histories.of("default", "nobody", learnt))


async def test_who_is_forgotten_is_not_in_what_was_learnt(
    engine: ClickHouseEngine, commit_log: CommitLog, stored: Interactions
) -> None:
    await stored.store("default", [did(user, product) for user in ("a", "b", "c") for product in ("x", "y")])
    learnt = Learnt(1, interactions=await Behaviour(engine, commit_log).read("default"))
    for forgotten, others in (("b", ("a", "c")), ("a", ("b", "c")), ("c", ("a", "b")), ("nobody", ("a", "b", "c"))):
        left = learnt.without(forgotten)
        assert left.history(forgotten) is None
        for other in others:
            history = left.history(other)
            assert history is not None
            assert sorted(history.ids) == ["x", "y"]
