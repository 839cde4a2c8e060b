"""The pipeline's data as the contract's messages."""

import time
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.pipeline.cleanup import Cleaned
from penstock.pipeline.daily import Count, DailyMetrics
from penstock.pipeline.runs import Run, State, Step, Trigger
from penstock.pipeline.status import PipelineStatus, Session
from penstock.pipeline.v1 import pipeline_pb2, pipeline_service_pb2

TRIGGERS = {
    Trigger.LOOP: pipeline_pb2.Run.TRIGGER_LOOP,
    Trigger.CALL: pipeline_pb2.Run.TRIGGER_CALL,
}
_STATES = {
    State.RUNNING: pipeline_pb2.Run.STATE_RUNNING,
    State.SUCCEEDED: pipeline_pb2.Run.STATE_SUCCEEDED,
    State.FAILED: pipeline_pb2.Run.STATE_FAILED,
    State.CANCELLED: pipeline_pb2.Run.STATE_CANCELLED,
}


def run(made: Run) -> pipeline_pb2.Run:
    """One run; of one under way the time so far."""
    start_time = Timestamp()
    start_time.FromDatetime(made.start_time)
    so_far_ms = max(0.0, (time.time() - made.start_time.timestamp()) * 1e3)
    return pipeline_pb2.Run(
        run=made.run,
        start_time=start_time,
        duration_ms=so_far_ms if made.state is State.RUNNING else made.duration_ms,
        trigger=TRIGGERS[made.trigger],
        state=_STATES[made.state],
        first_commit=made.first_commit,
        last_commit=made.last_commit,
        steps=[_step(step) for step in made.steps],
        error=made.error,
        retries=made.retries,
    )


def done(made: Sequence[Run], tenant: str, duration_ms: float) -> pipeline_service_pb2.RunPipelineResponse:
    """What a call ran, as far as the tenant may see it."""
    own = [seen for each in made if (seen := each.of(tenant)) is not None]
    return pipeline_service_pb2.RunPipelineResponse(
        runs=[run(each) for each in own],
        rows_processed=sum(each.rows for each in own),
        duration_ms=duration_ms,
    )


def daily_metrics(day: DailyMetrics) -> pipeline_pb2.DailyMetrics:
    """One day of one site."""
    return pipeline_pb2.DailyMetrics(
        date=day.date.isoformat(),
        site_id=day.site_id,
        sessions=day.sessions,
        visitors=day.visitors,
        page_views=day.page_views,
        bounce_rate=day.bounce_rate,
        average_session_seconds=day.average_session_seconds,
        orders=day.orders,
        gmv=float(day.gmv),
        currency=day.currency,
        conversion_rate=day.conversion_rate,
        top_pages=[_count(each) for each in day.top_pages],
        sources=[_count(each) for each in day.sources],
    )


def session(seen: Session) -> pipeline_pb2.Session:
    """One session."""
    message = pipeline_pb2.Session(
        session_id=seen.session_id,
        site_id=seen.site_id,
        visitor=seen.visitor,
        duration_seconds=(seen.end_time - seen.start_time).total_seconds(),
        page_views=seen.page_views,
        events=seen.events,
        landing_page=seen.landing_page,
        exit_page=seen.exit_page,
        source=seen.source,
        medium=seen.medium,
        campaign=seen.campaign,
        converted=seen.converted,
    )
    message.start_time.FromDatetime(seen.start_time)
    message.end_time.FromDatetime(seen.end_time)
    return message


def status(seen: PipelineStatus) -> pipeline_service_pb2.GetPipelineStatusResponse:
    """How the pipeline stands."""
    response = pipeline_service_pb2.GetPipelineStatusResponse
    message = response(
        last_commit=seen.last_commit,
        processed_commit=seen.processed_commit,
        lag_commits=seen.lag.commits,
        lag_seconds=seen.lag.seconds,
        unprocessed={name: float(rows) for name, rows in seen.unprocessed.items()},
        rates=[
            response.StepRate(name=rate.step, rows_per_second=rate.rows_per_second, mean_ms=rate.mean_ms)
            for rate in seen.rates
        ],
        tables=[response.TableSize(name=table.name, rows=table.rows, bytes=table.bytes) for table in seen.tables],
        recent_runs=[run(each) for each in seen.recent_runs],
    )
    if seen.current_run is not None:
        message.current_run.CopyFrom(run(seen.current_run))
    if seen.current_cleanup is not None:
        at = seen.current_cleanup
        message.current_cleanup.CopyFrom(response.CleanupProgress(table=at.table, done=at.done, total=at.total))
    return message


def cleaned(what: Cleaned) -> pipeline_service_pb2.CleanupResponse:
    """What a cleanup removed, or would."""
    message = pipeline_service_pb2.CleanupResponse(
        dry_run=what.dry_run,
        removed={table: float(rows) for table, rows in what.removed.items()},
        kept_unprocessed=what.kept_unprocessed,
        commit=what.commit,
        duration_ms=what.duration_ms,
        oldest_version=what.oldest_version,
    )
    message.cutoff.FromDatetime(what.cutoff)
    if what.purge_time is not None:
        message.purge_time.FromDatetime(what.purge_time)
    return message


def _step(step: Step) -> pipeline_pb2.Step:
    return pipeline_pb2.Step(
        name=step.name,
        rows_in=step.rows_in,
        rows_out=step.rows_out,
        duplicates=step.duplicates,
        rejected=step.rejected,
        duration_ms=step.duration_ms,
    )


def _count(count: Count) -> pipeline_pb2.DailyMetrics.Count:
    return pipeline_pb2.DailyMetrics.Count(name=count.name, count=count.count)
