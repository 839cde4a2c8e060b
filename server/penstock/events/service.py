"""Events over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

from google.api.httpbody_pb2 import HttpBody

from penstock.errors import InvalidInput, PenstockError, invalid_field
from penstock.events import collect, wire
from penstock.events.append_stream import AppendStream
from penstock.events.batch import Origin, RowsRejected
from penstock.events.committer import Committer
from penstock.events.intake import Intake
from penstock.events.reader import EventReader, Filter
from penstock.events.rejected import RejectedEvents
from penstock.events.streams import Streams
from penstock.events.tail import Tails
from penstock.events.v1 import events_pb2
from penstock.events.v1 import events_service_pb2 as pb
from penstock.rpc.bind import raw_requests
from penstock.rpc.call import Call
from penstock.rpc.status import status_of

HEARTBEAT_S = 15.0


class EventService:
    """Serves `penstock.events.v1.EventService`."""

    def __init__(
        self,
        committer: Committer,
        streams: Streams,
        intake: Intake,
        reader: EventReader,
        tails: Tails,
        rejected: RejectedEvents,
        *,
        durable: bool,
        draining: asyncio.Event,
    ) -> None:
        self._committer = committer
        self._streams = streams
        self._intake = intake
        self._reader = reader
        self._tails = tails
        self._rejected = rejected
        self._durable = durable
        self._draining = draining

    @raw_requests
    async def StreamEvents(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[pb.AppendResponse]:
        stream = AppendStream(self._committer, self._streams, call, durable=self._durable, draining=self._draining)
        async for frame in stream.frames(requests):
            yield frame

    async def BatchCollect(self, request: pb.BatchCollectRequest, call: Call) -> pb.BatchCollectResponse:
        events = [collect.complete(event) for event in request.events]
        keep_good = request.row_policy != events_pb2.ROW_POLICY_ALL_OR_NOTHING
        try:
            stored = await self._intake.store(_origin(call), events, keep_good=keep_good)
        except RowsRejected as error:
            raise wire.rejection(error.rows, "events") from error
        return wire.batch_results(events, stored)

    async def Collect(self, request: HttpBody, call: Call) -> pb.CollectResponse:
        event = collect.complete(_collected(request, call))
        try:
            stored = await self._intake.store(_origin(call), [event], keep_good=False)
        except RowsRejected as error:
            bad = error.rows[0]
            field, _, why = bad.message.partition(": ")
            raise invalid_field(field, why, reason=bad.reason) from error
        return pb.CollectResponse(
            status="success",
            message=f"stored in commit {stored.commit}",
            event_id=event.event_id,
            timestamp=event.timestamp,
        )

    async def UploadEvents(
        self, requests: AsyncIterator[pb.UploadEventsRequest], call: Call
    ) -> pb.UploadEventsResponse:
        done = await self._intake.upload(_origin(call), _pieces(requests))
        return pb.UploadEventsResponse(
            accepted_rows=done.accepted,
            rejected_rows=done.rejected,
            rejected=wire.row_errors(done.first_rejected),
            commit=done.commit,
        )

    async def ListEvents(self, request: pb.ListEventsRequest, call: Call) -> pb.ListEventsResponse:
        which = Filter(request.event_type, request.site_id, request.session_id, request.user_id)
        page = await self._reader.page(call.tenant, which, request.page_size or request.limit, request.page_token)
        return pb.ListEventsResponse(
            events=[wire.stored_event(row) for row in page.rows], next_page_token=page.next_token
        )

    async def CountEvents(self, request: pb.CountEventsRequest, call: Call) -> pb.CountEventsResponse:
        start = wire.moment(request, "start_time")
        end = wire.moment(request, "end_time")
        if start is not None and end is not None and start >= end:
            raise invalid_field("start_time", "must be before end_time", reason="INVALID_TIME_RANGE")
        counts, commit = await self._reader.counts(call.tenant, Filter(request.event_type, request.site_id), start, end)
        return pb.CountEventsResponse(counts=counts, total=sum(counts.values()), commit=commit)

    async def TailEvents(self, request: pb.TailEventsRequest, call: Call) -> AsyncIterator[pb.TailEventsResponse]:
        interval = request.heartbeat_interval
        heartbeat_s = interval.ToTimedelta().total_seconds() if request.HasField("heartbeat_interval") else HEARTBEAT_S
        which = Filter(request.event_type, request.site_id)
        begun = False
        try:
            followed = self._tails.follow(call.tenant, which, request.resume_token, heartbeat_s)
            async for row, position in followed:
                begun = True
                yield wire.tail_frame(call.tenant, row, position)
            yield pb.TailEventsResponse(end=pb.TailEnd())
        except PenstockError as error:
            if begun:
                yield pb.TailEventsResponse(error=status_of(error))
            raise

    async def ListRejectedEvents(
        self, request: pb.ListRejectedEventsRequest, call: Call
    ) -> pb.ListRejectedEventsResponse:
        rows, next_token = await self._rejected.page(
            call.tenant,
            reason=request.reason,
            stream_id=request.stream_id,
            replayed=request.include_replayed,
            size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListRejectedEventsResponse(
            rejected_events=[wire.rejected_event(row) for row in rows], next_page_token=next_token
        )

    async def ReplayRejectedEvents(
        self, request: pb.ReplayRejectedEventsRequest, call: Call
    ) -> pb.ReplayRejectedEventsResponse:
        done = await self._rejected.replay(
            _origin(call),
            request.rejected_ids,
            reason=request.reason,
            stream_id=request.stream_id,
            overrides=request.overrides,
        )
        return pb.ReplayRejectedEventsResponse(
            accepted_rows=done.accepted, rejected=wire.row_errors(done.bad), commit=done.commit
        )

    async def GetStream(self, request: pb.GetStreamRequest, call: Call) -> pb.GetStreamResponse:
        state = await self._streams.state(call.tenant, request.stream_id)
        return pb.GetStreamResponse(
            stream_id=request.stream_id,
            next_offset=state.next_offset,
            open=state.owner is not None,
            commit=state.commit,
        )


def _origin(call: Call) -> Origin:
    """The default stream, as single calls write to it."""
    return Origin(call.tenant, "", call.client_address, call.user_agent)


def _collected(body: HttpBody, call: Call) -> events_pb2.Event:
    """The event in the body, or in the query parameters where the call was a GET."""
    if body.data:
        return collect.from_json(body.data)
    query = call.metadata.get("x-envoy-original-path", "").partition("?")[2]
    if not query:
        raise InvalidInput("the body must be one JSON object, or the event in query parameters", reason="INVALID_JSON")
    return collect.from_fields(dict(parse_qsl(query)))


async def _pieces(requests: AsyncIterator[pb.UploadEventsRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.content.data
