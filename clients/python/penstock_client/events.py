"""Events: writing, reading back, following."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration

from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1.events_pb2 import Event, RejectedEvent, StoredEvent
from penstock.events.v1.events_service_pb2_grpc import EventServiceStub
from penstock_client.connection import Connection
from penstock_client.fields import event as build_event
from penstock_client.fields import instant
from penstock_client.writer import _ROW_POLICIES, Durability, RowPolicy, Writer, WriterOptions

PAGE_ROWS = 500


class Tail:
    """Committed events as they come, each once, in commit order; resumes by itself when the connection breaks.

    `resume_token` stands behind the last event that was yielded: give it to `tail` to go on there in another process.
    """

    def __init__(self, connection: Connection, request: pb.TailEventsRequest) -> None:
        self.resume_token = request.resume_token
        self._connection = connection
        self._request = request
        self._events = self._follow()

    def __aiter__(self) -> AsyncIterator[StoredEvent]:
        return self

    async def __anext__(self) -> StoredEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Ends the tail."""
        await self._events.aclose()

    async def _follow(self) -> Any:
        stub = EventServiceStub(self._connection.channel)

        def start() -> Any:
            self._request.resume_token = self.resume_token
            return stub.TailEvents(self._request, metadata=self._connection.metadata)

        async for frame in self._connection.follow(start, pb.TailEventsResponse):
            self.resume_token = frame.resume_token or self.resume_token
            if frame.HasField("event"):
                yield frame.event


class EventsClient:
    """`client.events`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> EventServiceStub:
        return EventServiceStub(self._connection.channel)

    def writer(
        self,
        stream_id: str = "",
        *,
        row_policy: RowPolicy | None = None,
        min_durability: Durability | None = None,
        batch_rows: int = 1_000,
        batch_bytes: int = 1024 * 1024,
        batch_delay_s: float = 0.05,
        retry_total_s: float | None = None,
    ) -> Writer:
        """A writer on the stream of that name: exactly-once; without a name, on the default stream: at-least-once.

        `row_policy`: what a bad row does to its batch: "all_or_nothing" (the default) or "keep_good".
        `min_durability`: the least that an ack must mean: "committed" or "durable"; opening fails where it is more
        than the server gives. A batch goes out when it has `batch_rows` rows or `batch_bytes` bytes, or `batch_delay_s`
        after its first row. `retry_total_s` bounds how long a writer with rows to send may go on without progress.
        """
        bound = self._connection.retry_total_s if retry_total_s is None else retry_total_s
        options = WriterOptions(row_policy, min_durability, batch_rows, batch_bytes, batch_delay_s, bound)
        return Writer(self._connection, stream_id, options)

    async def batch_collect(
        self, events: Iterable[Event | Mapping[str, Any]], *, row_policy: RowPolicy | None = None
    ) -> pb.BatchCollectResponse:
        """Stores up to 10,000 events in one call, with a result for each; for more, or exactly once, use a writer."""
        request = pb.BatchCollectRequest(
            events=[each if isinstance(each, Event) else build_event(**each) for each in events],
            row_policy=_ROW_POLICIES[row_policy],
        )
        return await self._connection.call(self._stub.BatchCollect, request, pb.BatchCollectResponse)

    async def list(
        self,
        *,
        event_type: str = "",
        site_id: str = "",
        session_id: str = "",
        user_id: str = "",
        page_size: int = PAGE_ROWS,
    ) -> AsyncIterator[StoredEvent]:
        """Committed events, newest commit first, page after page; what arrives meanwhile is not among them."""
        request = pb.ListEventsRequest(
            page_size=page_size, event_type=event_type, site_id=site_id, session_id=session_id, user_id=user_id
        )
        while True:
            page = await self._connection.read(self._stub.ListEvents, request, pb.ListEventsResponse)
            for each in page.events:
                yield each
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def count(
        self,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        event_type: str = "",
        site_id: str = "",
    ) -> pb.CountEventsResponse:
        """Counts committed events by type, by event time in [start_time, end_time)."""
        request = pb.CountEventsRequest(
            start_time=instant(start_time) if start_time is not None else None,
            end_time=instant(end_time) if end_time is not None else None,
            event_type=event_type,
            site_id=site_id,
        )
        return await self._connection.read(self._stub.CountEvents, request, pb.CountEventsResponse)

    def tail(
        self, resume_token: str = "", *, event_type: str = "", site_id: str = "", heartbeat_s: float = 15.0
    ) -> Tail:
        """Follows committed events live, from now or from a resume token.

        Until its first frame, which comes within `heartbeat_s`, a tail without a token has no place to resume from:
        if the connection breaks before, it begins again with what is committed then.
        """
        request = pb.TailEventsRequest(
            resume_token=resume_token,
            event_type=event_type,
            site_id=site_id,
            heartbeat_interval=Duration(nanos=0, seconds=max(1, round(heartbeat_s))),
        )
        return Tail(self._connection, request)

    async def rejected(
        self, *, reason: str = "", stream_id: str = "", include_replayed: bool = False, page_size: int = PAGE_ROWS
    ) -> AsyncIterator[RejectedEvent]:
        """Rows that were not taken, newest first, page after page."""
        request = pb.ListRejectedEventsRequest(
            page_size=page_size, reason=reason, stream_id=stream_id, include_replayed=include_replayed
        )
        while True:
            page = await self._connection.read(self._stub.ListRejectedEvents, request, pb.ListRejectedEventsResponse)
            for each in page.rejected_events:
                yield each
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def replay_rejected(
        self,
        rejected_ids: Sequence[str] = (),
        *,
        reason: str = "",
        stream_id: str = "",
        overrides: Event | Mapping[str, Any] | None = None,
    ) -> pb.ReplayRejectedEventsResponse:
        """Tries rejected rows again: those named, else at most 10,000 waiting ones of that reason and stream.

        Fields set in `overrides` replace the rows' own.
        """
        if overrides is not None and not isinstance(overrides, Event):
            overrides = build_event(**{"event_type": "", **overrides})
        request = pb.ReplayRejectedEventsRequest(
            rejected_ids=rejected_ids, reason=reason, stream_id=stream_id, overrides=overrides
        )
        return await self._connection.call(self._stub.ReplayRejectedEvents, request, pb.ReplayRejectedEventsResponse)

    async def stream(self, stream_id: str) -> pb.GetStreamResponse:
        """Where a stream stands."""
        return await self._connection.read(
            self._stub.GetStream, pb.GetStreamRequest(stream_id=stream_id), pb.GetStreamResponse
        )
