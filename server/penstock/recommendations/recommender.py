"""Brings together what a recommendation rests on: the user, the model, the index, the experiments."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from penstock import limits
from penstock.catalog.writer import not_found
from penstock.feedback.sessions import Sessions
from penstock.feedback.sessions_state import SessionState
from penstock.recommendations import ranking
from penstock.recommendations.experiments import Assignment, Experiment, parameters_for
from penstock.recommendations.histories import Histories
from penstock.recommendations.models import Learnt
from penstock.recommendations.parameters import Context, Parameters
from penstock.recommendations.ranking import Ranking
from penstock.recommendations.request import Hits, Request
from penstock.recommendations.shelf import Shelf
from penstock.recommendations.user import NOTHING, Touched, UserState
from penstock.search.hosted import View
from penstock.search.index import Category, Filter
from penstock.search.lane import SearchLane, Vectors

EVERYTHING = Filter()


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request for recommendations."""

    tenant: str
    user_id: str
    context: Context
    limit: int
    query: str = ""
    product_id: str = ""
    category: str = ""
    which: Filter = EVERYTHING
    exclude: frozenset[str] = frozenset()
    include_seen: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """What one answer rests on, apart from the user: of the same ground and user, the same answer."""

    view: View
    learnt: Learnt
    parameters: Parameters
    assignments: Sequence[Assignment]


class Recommender:
    """Recommends."""

    def __init__(self, lane: SearchLane, sessions: Sessions, histories: Histories) -> None:
        self._lane = lane
        self._sessions = sessions
        self._histories = histories

    def ground(self, view: View, learnt: Learnt, experiments: Sequence[Experiment], wanted: Wanted) -> Ground:
        """What the answer will rest on."""
        parameters, assignments = parameters_for(experiments, wanted.user_id, wanted.context, Parameters())
        return Ground(view, learnt, parameters, assignments)

    async def recommend(self, ground: Ground, wanted: Wanted) -> Ranking:
        """The ranking. Raises NotFound (PRODUCT_NOT_FOUND), InvalidInput, Overloaded, Unavailable."""
        view = ground.view
        if wanted.context is Context.SIMILAR and view.products.get(wanted.product_id) is None:
            raise not_found(wanted.product_id)
        user = await self._user(wanted, ground.learnt)
        vector: Vectors | None = None
        if wanted.query and view.version.size > view.version.pending_vectors:
            vector = await view.encoder.encode(wanted.query, wanted.tenant)
        return await self._lane.run(wanted.tenant, _ranked, ground, wanted, user, vector)

    async def _user(self, wanted: Wanted, learnt: Learnt) -> UserState:
        if not wanted.user_id:
            return UserState()
        session = await self._sessions.read(wanted.tenant, wanted.user_id)
        history = await self._histories.of(wanted.tenant, wanted.user_id, learnt)
        return UserState(history, _touched(session))


def _touched(session: SessionState) -> Touched:
    """The session's products, with the weights that time has left them."""
    if not session.interactions:
        return NOTHING
    weights = session.weights(datetime.now(UTC))
    last = {each.product_id: each.time.timestamp() for each in reversed(session.interactions)}
    ids = tuple(last)
    return Touched(ids, np.array([weights.get(each, 0.0) for each in ids]), np.array(list(last.values())))


def _ranked(ground: Ground, wanted: Wanted, user: UserState, vector: Vectors | None) -> Ranking:
    which = wanted.which
    if wanted.category:
        path = tuple(name for name in wanted.category.split("/") if name)
        which = Filter((*which.conditions, Category((path,) if path else (), (wanted.category,))))
    shelf = Shelf(ground.view, which)
    request = Request(
        context=wanted.context,
        limit=wanted.limit,
        query=_hits(ground.view, shelf, wanted.query, vector) if wanted.context is Context.SEARCH else None,
        product_id=wanted.product_id or None,
        exclude=wanted.exclude,
        include_seen=wanted.include_seen,
    )
    made = ranking.rank(ground.learnt.model, ground.learnt.text_map, shelf, user, request, ground.parameters)
    return made if made.items or wanted.limit == 0 else replace(made, reason=_nothing(ground.view, shelf, made))


def _hits(view: View, shelf: Shelf, text: str, vector: Vectors | None) -> Hits:
    version = view.version
    if vector is None:
        found = version.lexical(text, limits.RECOMMENDATION_HITS, shelf.found)
        return Hits(tuple(version.product_ids(found.numbers)), np.asarray(found.scores, np.float64))
    both = version.hybrid(text, vector, limits.RECOMMENDATION_HITS, shelf.found)
    return Hits(tuple(version.product_ids(both.numbers)), np.asarray(both.scores, np.float64))


def _nothing(view: View, shelf: Shelf, made: Ranking) -> str:
    if not view.version.size:
        return "the catalogue is empty"
    if not shelf.found.count:
        return "no product in stock passes the filters"
    return made.reason
