"""A user who clicks, looks at the next recommendations, and finds the click in them."""

import asyncio
import random

import grpc

from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.feedback.v1 import feedback_service_pb2_grpc as feedback_stubs
from penstock.feedback.v1.feedback_pb2 import CLICK, Interaction
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.recommendations.v1 import recommendations_service_pb2_grpc as recommendations_stubs

CALL_S_MAX = 30.0


class Clicker:
    """One user of the shop of `count` products; `pause_s` between a click and the next."""

    def __init__(self, name: str, channel: grpc.aio.Channel, count: int, pause_s: float = 0.0) -> None:
        self.name = name
        self.clicked: list[str] = []
        self.wrong: list[str] = []
        self._count = count
        self._pause_s = pause_s
        self._chance = random.Random(name)
        self._feedback = feedback_stubs.FeedbackServiceStub(channel)
        self._recommendations = recommendations_stubs.RecommendationServiceStub(channel)

    @property
    def rounds(self) -> int:
        """How often they clicked."""
        return len(self.clicked)

    async def run(self, until: asyncio.Event) -> None:
        """Any error of a call is wrong: Redis is not needed."""
        while not until.is_set():
            await self.click(f"p{self._chance.randrange(self._count):04}")
            await self.look()
            await asyncio.sleep(self._pause_s)

    async def click(self, product: str) -> None:
        """Clicks on a product; it is stored."""
        click = Interaction(user_id=self.name, product_id=product, interaction_type=CLICK)
        await self._feedback.SendFeedback(feedback.SendFeedbackRequest(interaction=click), timeout=CALL_S_MAX)
        self.clicked.append(product)

    async def look(self) -> recommendations.RecommendResponse:
        """Looks at what is recommended, which rests on every click."""
        request = recommendations.RecommendRequest(user_id=self.name, limit=self._count, ids_only=True)
        answer: recommendations.RecommendResponse = await self._recommendations.Recommend(request, timeout=CALL_S_MAX)
        shown = {item.product.product_id for item in answer.items}
        if shown & set(self.clicked):
            self.wrong.append(f"{self.name} is shown {shown & set(self.clicked)}, cached: {answer.cached}")
        distinct = len(set(self.clicked[-100:]))
        if answer.session_size != distinct:
            self.wrong.append(f"{self.name} touched {distinct}; the session has {answer.session_size}")
        return answer

    async def check(self) -> None:
        """Everything that they did is known, and nothing was wrong meanwhile."""
        profile: feedback.GetUserProfileResponse = await self._feedback.GetUserProfile(
            feedback.GetUserProfileRequest(user_id=self.name), timeout=CALL_S_MAX
        )
        assert profile.interactions == len(self.clicked)
        assert {each.product_id for each in profile.session} == set(self.clicked[-100:])
        assert not self.wrong, self.wrong
