"""Feedback over gRPC."""

from collections.abc import AsyncIterator, Sequence

from penstock import limits
from penstock.feedback import wire
from penstock.feedback.forgetting import Forgetting
from penstock.feedback.intake import FeedbackIntake, Taken
from penstock.feedback.profiles import Profiles
from penstock.feedback.v1 import feedback_pb2
from penstock.feedback.v1 import feedback_service_pb2 as pb
from penstock.rpc.call import Call


class FeedbackService:
    """Serves `penstock.feedback.v1.FeedbackService`."""

    def __init__(self, intake: FeedbackIntake, profiles: Profiles, forgetting: Forgetting) -> None:
        self._intake = intake
        self._profiles = profiles
        self._forgetting = forgetting

    async def SendFeedback(self, request: pb.SendFeedbackRequest, call: Call) -> pb.SendFeedbackResponse:
        interaction = wire.interaction_of(request.interaction, "interaction")
        done = await self._intake.take(call.tenant, [interaction])
        return pb.SendFeedbackResponse(
            status="stored" if done.stored else "duplicate",
            request_id=interaction.request_id,
            commit=done.commit,
            stored_ms=done.stored_ms,
            session_ms=done.session_ms,
        )

    async def BatchFeedback(self, request: pb.BatchFeedbackRequest, call: Call) -> pb.BatchFeedbackResponse:
        done = await self._take(request.interactions, call)
        return pb.BatchFeedbackResponse(stored=done.stored, duplicates=done.duplicates, commit=done.commit)

    async def StreamFeedback(
        self, requests: AsyncIterator[pb.StreamFeedbackRequest], call: Call
    ) -> AsyncIterator[pb.StreamFeedbackResponse]:
        async for request in requests:
            done = await self._take(request.interactions, call)
            yield pb.StreamFeedbackResponse(stored=done.stored, duplicates=done.duplicates, commit=done.commit)

    async def GetUserProfile(self, request: pb.GetUserProfileRequest, call: Call) -> pb.GetUserProfileResponse:
        last = request.limit if request.HasField("limit") else limits.INTERACTIONS_SHOWN_DEFAULT
        return wire.profile(request.user_id, await self._profiles.of(call.tenant, request.user_id, last))

    async def ForgetUser(self, request: pb.ForgetUserRequest, call: Call) -> pb.ForgetUserResponse:
        done = await self._forgetting.forget(call.tenant, request.user_id)
        return pb.ForgetUserResponse(
            removed=done.removed,
            remaining=done.remaining,
            linked_visitor_ids=done.linked_visitor_ids,
            took_ms=done.took_ms,
        )

    async def _take(self, sent: Sequence[feedback_pb2.Interaction], call: Call) -> Taken:
        interactions = [wire.interaction_of(each, f"interactions[{place}]") for place, each in enumerate(sent)]
        return await self._intake.take(call.tenant, interactions)
