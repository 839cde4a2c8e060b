"""What users do with products, and what is known of a user."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, Required, TypeAlias, TypedDict, Unpack
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.feedback.v1 import feedback_pb2
from penstock.feedback.v1 import feedback_service_pb2 as pb
from penstock.feedback.v1.feedback_pb2 import Interaction
from penstock.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from penstock_client.connection import Connection
from penstock_client.delivery import Exchange, converted, deliver
from penstock_client.fields import instant
from penstock_client.operation import HEAVY_TIMEOUT_S
from penstock_client.recommendations import CONTEXTS, Context

STREAM_INTERACTIONS = 500  # of one request of `stream`, at most

InteractionType = Literal["view", "click", "like", "share", "add_to_cart", "purchase", "rating"]

_TYPES = {
    "view": feedback_pb2.VIEW,
    "click": feedback_pb2.CLICK,
    "like": feedback_pb2.LIKE,
    "share": feedback_pb2.SHARE,
    "add_to_cart": feedback_pb2.ADD_TO_CART,
    "purchase": feedback_pb2.PURCHASE,
    "rating": feedback_pb2.RATING,
}


class InteractionDetails(TypedDict, total=False):
    """What may be said of an interaction beside who did what; None is as good as absent."""

    context: Context | None  # where they saw it
    position: int | None  # at which place of the list, from 1
    query: str | None  # what they had searched for
    rating: float | None  # 1 to 5, of "rating" alone
    request_id: str | None  # the same again of the same user stores nothing
    timestamp: datetime | float | Timestamp | None  # when it was; absent: now


class InteractionFields(InteractionDetails, total=False):
    """All of an interaction, as `feedback.batch` takes it in a mapping."""

    user_id: Required[str]
    product_id: Required[str]
    interaction_type: Required[InteractionType]


InteractionLike: TypeAlias = Interaction | InteractionFields


def interaction(
    user_id: str, product_id: str, interaction_type: InteractionType, **details: Unpack[InteractionDetails]
) -> Interaction:
    """Builds an interaction, with a request_id of its own where none is given, so that it can be sent again.

    Raises TypeError for a name that is no field, ValueError for a datetime without a zone.
    """
    unknown = sorted(set(details) - set(InteractionDetails.__annotations__))
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no field of an interaction")
    when = details.get("timestamp")
    return Interaction(
        user_id=user_id,
        product_id=product_id,
        interaction_type=_TYPES[interaction_type],
        context=CONTEXTS[details.get("context")],
        position=details.get("position"),
        query=details.get("query"),
        rating=details.get("rating"),
        request_id=details.get("request_id") or uuid4().hex,
        timestamp=instant(when) if when is not None else None,
    )


class FeedbackClient:
    """`client.feedback`.

    Whatever is sent has a request_id, the caller's or one that is made here: sent again after a broken connection, it
    is not stored twice.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> FeedbackServiceStub:
        return FeedbackServiceStub(self._connection.channel)

    async def send(
        self,
        user_id: str,
        product_id: str,
        interaction_type: InteractionType,
        **details: Unpack[InteractionDetails],
    ) -> pb.SendFeedbackResponse:
        """Stores one interaction, such as `("u1", "p7", "click", context="search", position=3, query="lamp")`.

        Once it returns, the user's next recommendation has seen it.
        """
        made = interaction(user_id, product_id, interaction_type, **details)
        request = pb.SendFeedbackRequest(interaction=made)
        return await self._connection.read(self._stub.SendFeedback, request, pb.SendFeedbackResponse)

    async def batch(self, interactions: Iterable[InteractionLike]) -> pb.BatchFeedbackResponse:
        """Stores up to 5,000 interactions, all of them or none; for more, `stream`."""
        request = pb.BatchFeedbackRequest(interactions=[_named(each) for each in interactions])
        return await self._connection.read(self._stub.BatchFeedback, request, pb.BatchFeedbackResponse)

    def stream(
        self,
        interactions: Iterable[InteractionLike] | AsyncIterable[InteractionLike],
        *,
        batch: int = STREAM_INTERACTIONS,
    ) -> AsyncIterator[pb.StreamFeedbackResponse]:
        """Stores interactions as they come, and yields the server's answers, each to the next few of them, in order.

        None waits for another: what has come goes out, at most `batch` (up to 5,000) a request. Goes on by itself when
        the connection breaks; what it sends again counts as `duplicates` where it was stored. It advances as the
        answers are iterated. A plain iterable is read on a thread. Raises the Error of an interaction that the server
        refuses: requests before it are stored.
        """

        def start() -> Any:
            return self._stub.StreamFeedback(metadata=self._connection.metadata)

        made = converted(interactions, _named) if isinstance(interactions, AsyncIterable) else map(_named, interactions)
        # One at a time, since the next may be long in coming.
        exchange = Exchange(start, _request, pb.StreamFeedbackResponse, rows=batch, read_ahead=1)
        return deliver(self._connection, exchange, made)

    async def profile(self, user_id: str, *, limit: int | None = None) -> pb.GetUserProfileResponse:
        """What is known of a user, with their last `limit` interactions (20 by default); of nobody known, nothing."""
        request = pb.GetUserProfileRequest(user_id=user_id, limit=limit)
        return await self._connection.read(self._stub.GetUserProfile, request, pb.GetUserProfileResponse)

    async def forget(self, user_id: str, *, timeout_s: float = HEAVY_TIMEOUT_S) -> pb.ForgetUserResponse:
        """Forgets a user everywhere, for good, and says what was removed and that nothing remains.

        Once begun it is finished, even where the call is cut off. Raises RunInProgress while another forgetting, or a
        cleanup, is under way.
        """
        request = pb.ForgetUserRequest(user_id=user_id)
        return await self._connection.call(self._stub.ForgetUser, request, pb.ForgetUserResponse, timeout_s)


def _named(given: InteractionLike) -> Interaction:
    """An interaction with a request_id; the caller's own message is not changed."""
    if not isinstance(given, Interaction):
        return interaction(**given)
    if given.request_id:
        return given
    made = Interaction()
    made.CopyFrom(given)
    made.request_id = uuid4().hex
    return made


def _request(interactions: Sequence[Interaction]) -> pb.StreamFeedbackRequest:
    return pb.StreamFeedbackRequest(interactions=interactions)
