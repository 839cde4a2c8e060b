"""Recommendations, from the wire and to it."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from penstock import limits
from penstock.catalog.products import TenantProducts
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import invalid_field
from penstock.recommendations.experiments import Experiment, Variant
from penstock.recommendations.models import Learnt
from penstock.recommendations.parameters import Context, Overrides, Weights
from penstock.recommendations.ranking import Ranking
from penstock.recommendations.reasons import Reason, ReasonKind
from penstock.recommendations.recommender import Ground, Wanted
from penstock.recommendations.v1 import recommendations_pb2
from penstock.recommendations.v1 import recommendations_service_pb2 as pb
from penstock.search.wire import filter_of

_CONTEXTS = {
    recommendations_pb2.CONTEXT_UNSPECIFIED: Context.FEED,
    recommendations_pb2.FEED: Context.FEED,
    recommendations_pb2.SEARCH: Context.SEARCH,
    recommendations_pb2.SIMILAR: Context.SIMILAR,
    recommendations_pb2.CATEGORY: Context.CATEGORY,
}
_NEEDED = {Context.SEARCH: "query", Context.SIMILAR: "product_id", Context.CATEGORY: "category"}
_OVERRIDES = ("long_term", "session", "query", "product", "diversity")
_TEXTS = {
    ReasonKind.LIKED_BEFORE: "because of what you liked before",
    ReasonKind.LIKED_NOW: "because of what you are looking at",
    ReasonKind.FITS_QUERY: "because it fits what you searched for",
    ReasonKind.LIKE_PRODUCT: "because it goes with this product",
    ReasonKind.IN_CATEGORY: "because it is liked in this category",
    ReasonKind.POPULAR: "because others like it",
    ReasonKind.NEW: "because it is new",
}


def wanted_of(request: pb.RecommendRequest, tenant: str) -> Wanted:
    """What a request asks for. Raises InvalidInput where a field is missing for its context, or goes not with it."""
    context = _CONTEXTS[request.context]
    for each, name in _NEEDED.items():
        given = getattr(request, name).strip()
        if each is context and not given:
            raise invalid_field(name, f"is required for {context.name}")
        if each is not context and given:
            raise invalid_field(name, f"goes with {each.name}, not with {context.name}")
    return Wanted(
        tenant=tenant,
        user_id=request.user_id,
        context=context,
        limit=request.limit if request.HasField("limit") else limits.RECOMMENDATIONS_DEFAULT,
        query=request.query.strip(),
        product_id=request.product_id,
        category=request.category,
        which=filter_of(request.filters),
        exclude=frozenset(request.exclude),
        include_seen=request.include_seen,
    )


def asked(request: pb.RecommendRequest) -> bytes:
    """Names what a request asks for, its form apart."""
    bare = pb.RecommendRequest()
    bare.CopyFrom(request)
    bare.ClearField("ids_only")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()


def recommended(ranking: Ranking, ground: Ground) -> pb.RecommendResponse:
    """The answer, with the ids of products alone: what they are is put in when it is given."""
    return pb.RecommendResponse(
        items=[
            recommendations_pb2.Recommendation(
                product=Product(product_id=each.product_id), score=each.score, reason=_reason(each.reason)
            )
            for each in ranking.items
        ],
        weights=_weights(ranking.weights),
        experiments=[
            recommendations_pb2.Assignment(experiment=each.experiment, variant=each.variant)
            for each in ground.assignments
        ],
        model_version=ground.learnt.version,
        index_version=ground.view.version.number,
        session_size=ranking.session_size,
        history_size=ranking.history_size,
        reason=ranking.reason,
    )


def fill(response: pb.RecommendResponse, products: TenantProducts) -> None:
    """Puts in the products as they are now; those that are gone, or no longer to be had, are left out."""
    kept = []
    for each in response.items:
        stored = products.get(each.product.product_id)
        if stored is not None:
            each.product.ParseFromString(stored.message)
            if each.product.is_active and each.product.in_stock:
                kept.append(each)
    if len(kept) != len(response.items):
        del response.items[:]
        response.items.extend(kept)


def experiment_of(sent: recommendations_pb2.Experiment) -> Experiment:
    """An experiment as the ranking knows it. Raises InvalidInput."""
    context = _CONTEXTS[sent.context] if sent.context else None
    return Experiment(sent.name, tuple(_variant(each) for each in sent.variants), context)


def experiments_of(stored: Sequence[recommendations_pb2.Experiment]) -> list[Experiment]:
    """Those that run."""
    return [experiment_of(each) for each in stored]


def model(learnt: Learnt) -> recommendations_pb2.Model:
    """What was learnt."""
    found = learnt.model
    made = recommendations_pb2.Model(
        version=learnt.version,
        train_ms=found.train_ms,
        interactions=found.interactions,
        users=found.users,
        products=len(found),
        parts=found.parts,
    )
    if learnt.version:
        made.train_time.FromDatetime(datetime.fromtimestamp(found.trained_at, UTC))
    return made


def _variant(sent: recommendations_pb2.Variant) -> Variant:
    changed = {name: getattr(sent.overrides, name) for name in _OVERRIDES if sent.overrides.HasField(name)}
    return Variant(sent.name, sent.weight, Overrides(**changed))


def _reason(reason: Reason) -> recommendations_pb2.Reason:
    text = _TEXTS[reason.kind]
    if reason.product_id and reason.kind in (ReasonKind.LIKED_BEFORE, ReasonKind.LIKED_NOW):
        text = f"{text}: {reason.product_id}"
    return recommendations_pb2.Reason(kind=reason.kind.name, product_id=reason.product_id, text=text)


def _weights(used: Weights) -> recommendations_pb2.Weights:
    return recommendations_pb2.Weights(**used.by_part())
