"""Feedback, from the wire and to it."""

from collections.abc import Sequence
from datetime import UTC, datetime

import uuid_utils

from penstock.errors import invalid_field
from penstock.feedback.interactions import Interaction, check_time
from penstock.feedback.profiles import Affinity, Profile
from penstock.feedback.v1 import feedback_pb2
from penstock.feedback.v1 import feedback_service_pb2 as pb
from penstock.recommendations.v1 import recommendations_pb2


def interaction_of(sent: feedback_pb2.Interaction, field: str) -> Interaction:
    """One interaction, with a name and a time of its own. Raises InvalidInput naming the field below `field`."""
    name = feedback_pb2.InteractionType.Name(sent.interaction_type)
    rated = sent.interaction_type == feedback_pb2.RATING
    if rated and not sent.HasField("rating"):
        raise invalid_field(f"{field}.rating", "is required for RATING")
    if not rated and sent.HasField("rating"):
        raise invalid_field(f"{field}.rating", f"goes with RATING, not with {name}")
    time = datetime.now(UTC)
    if sent.HasField("timestamp"):
        try:
            time = sent.timestamp.ToDatetime(UTC)
        except (ValueError, OverflowError):
            raise invalid_field(f"{field}.timestamp", "is no time of the years 1 to 9999") from None
        check_time(f"{field}.timestamp", time)
    return Interaction(
        user_id=sent.user_id,
        product_id=sent.product_id,
        interaction_type=name,
        event_time=time,
        request_id=sent.request_id or str(uuid_utils.uuid7()),
        context=recommendations_pb2.Context.Name(sent.context) if sent.context else "",
        position=sent.position if sent.HasField("position") else None,
        query=sent.query,
        rating=sent.rating if rated else None,
    )


def profile(user_id: str, found: Profile) -> pb.GetUserProfileResponse:
    """What is known of a user."""
    summary = found.summary
    made = pb.GetUserProfileResponse(
        user_id=user_id,
        session=_affinities(found.session),
        long_term=_affinities(found.long_term),
        last_interactions=[_interaction(each) for each in found.last],
        interactions=summary.interactions,
        reason="" if summary.interactions or found.session else "nothing is known of this user",
    )
    if summary.first is not None and summary.last is not None:
        made.first_time.FromDatetime(summary.first)
        made.last_time.FromDatetime(summary.last)
    return made


def _affinities(found: Sequence[Affinity]) -> list[pb.Affinity]:
    return [pb.Affinity(product_id=each.product_id, weight=each.weight) for each in found]


def _interaction(each: Interaction) -> feedback_pb2.Interaction:
    made = feedback_pb2.Interaction(
        user_id=each.user_id,
        product_id=each.product_id,
        interaction_type=each.interaction_type,
        context=each.context or None,
        position=each.position,
        query=each.query,
        rating=each.rating,
        request_id=each.request_id,
    )
    made.timestamp.FromDatetime(each.event_time)
    return made
