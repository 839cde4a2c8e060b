"""Traces with OpenTelemetry, when there is an endpoint to send them to; without one nothing of it is imported.

Each rpc is a span, child of the one that came as `traceparent` (W3C Trace Context); each statement that it waits for is
a child of that, and ClickHouse is told so that its own spans join. What is current goes with the task of the call, so
nothing in between passes it on, and where there is no trace a hook costs 0.2 µs. A computation that runs
`detached`, because it belongs to many calls, has no span.

Spans hold names, ids and codes: no statement's text, no values, nothing of a request.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import grpc

from penstock.errors import Conflict

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_S_MAX = 5.0  # to send one batch, tries again included
FLUSH_S_MAX = 1.5  # at the end; what is not sent by then is lost
SPANS_QUEUED_MAX = 4_096  # past it the oldest are dropped, never a call; each takes some 4 kB
SPANS_SENT_AT_ONCE = 512
SEND_EVERY_MS = 1_000.0
NAME_CHARS_MAX = 80

# Statuses that OpenTelemetry's conventions count as errors of a server; others are its client's.
SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
_NUMBERS: dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}
_NOTHING = nullcontext()

# What is no name: comments and texts, cut off ones too. All in one go, for each may look as if it held another.
_NO_NAMES = re.compile(r"--[^\n]*|/\*.*?(?:\*/|$)|'(?:[^'\\]|\\.)*(?:'|\\?$)", re.DOTALL)
_VERB = re.compile(
    r"\b(ALTER|CREATE|DELETE|DESCRIBE|DROP|EXPLAIN|INSERT|KILL|OPTIMIZE|RENAME|SELECT|SET|SHOW|SYSTEM|TRUNCATE)\b", re.I
)
_TABLE = re.compile(r"\b(?:FROM|INTO|TABLE)\s+(?:TABLE\s+|IF\s+(?:NOT\s+)?EXISTS\s+)*`?([A-Za-z_][\w.]*)", re.I)
_READ_CHARS = 4_096  # of a statement


@dataclass(frozen=True, slots=True)
class _Current:
    """Where a task is in its trace."""

    tracer: "Tracer"
    span: "Span"


_current: ContextVar[_Current | None] = ContextVar("trace", default=None)


def span(name: str, **attributes: str | int) -> AbstractContextManager[None]:
    """A span around a block, child of what is current; nothing where there is no trace. It is an error if it raises."""
    parent = _current.get()
    return _NOTHING if parent is None else _child(parent, name, attributes)


def statement(sql: str, lane: str) -> AbstractContextManager[None]:
    """The same around a statement to ClickHouse, of which the span says what `statement_name` does and no more."""
    parent = _current.get()
    if parent is None:
        return _NOTHING
    name = statement_name(sql)
    return _child(parent, name, {"db.system.name": "clickhouse", "db.query.summary": name, "penstock.lane": lane})


def traceparent() -> str | None:
    """What is current, as the W3C's header of that name has it; None where there is no trace."""
    current = _current.get()
    if current is None:
        return None
    context = current.span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"


def statement_name(sql: str) -> str:
    """What a statement does and to which table, such as `INSERT events`: never a value, and not longer than a name."""
    text = _NO_NAMES.sub(" ", sql[:_READ_CHARS])
    verb, table = _VERB.search(text), _TABLE.search(text)
    words = (verb[1].upper() if verb else "STATEMENT", table[1] if table else "")
    return " ".join(filter(None, words))[:NAME_CHARS_MAX]


class ServerSpan:
    """The span of one rpc."""

    __slots__ = ("_span",)

    def __init__(self, span: "Span") -> None:
        self._span = span

    def end(self, code: str, tenant: str) -> None:
        """The rpc has ended with the gRPC status of that name."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("penstock.tenant", tenant)
        self._span.set_attribute("rpc.grpc.status_code", _NUMBERS.get(code, _NUMBERS["UNKNOWN"]))
        if code in SERVER_ERRORS:
            self._span.set_status(StatusCode.ERROR, code)
        self._span.end()


class Tracing:
    """Makes spans and sends them, from a thread of its own."""

    def __init__(
        self,
        provider: "TracerProvider",
        exporter: "OTLPSpanExporter",
        tracer: "Tracer",
        incoming: "TraceContextTextMapPropagator",
    ) -> None:
        self._provider = provider
        self._exporter = exporter
        self._tracer = tracer
        self._incoming = incoming

    @classmethod
    def open(cls, endpoint: str, version: str) -> Self:
        """Sends to `endpoint`, `http://HOST:PORT` or `https://HOST:PORT`, with OTLP over gRPC.

        Which of the calls that come without a decision are traced, OTEL_TRACES_SAMPLER says; all of them by default.
        Raises Conflict (TRACING_UNUSABLE) for something else, and where the packages are missing. An endpoint that does
        not answer is no error: spans are dropped until it does.
        """
        if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
            raise _unusable(f"{endpoint!r} is no endpoint: give http://HOST:4317 in PENSTOCK_OTLP_ENDPOINT")
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "opentelemetry":
                raise
            raise _unusable("PENSTOCK_OTLP_ENDPOINT is set: install penstock[tracing], or leave it empty") from error
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S_MAX)
        provider = TracerProvider(
            resource=Resource.create({"service.name": "penstock", "service.version": version}), shutdown_on_exit=False
        )
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=SPANS_QUEUED_MAX,
                schedule_delay_millis=SEND_EVERY_MS,
                max_export_batch_size=SPANS_SENT_AT_ONCE,
            )
        )
        return cls(provider, exporter, provider.get_tracer("penstock", version), TraceContextTextMapPropagator())

    def begin(self, method: str, metadata: Mapping[str, str], request_id: str) -> ServerSpan:
        """An rpc begins in this task, and its span is current from here on. `method` as in `Call.method`."""
        from opentelemetry.trace import SpanKind

        service, _, name = method.lstrip("/").partition("/")
        begun = self._tracer.start_span(
            f"{service}/{name}",
            context=self._incoming.extract(metadata),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": name,
                "penstock.request_id": request_id,
            },
        )
        _current.set(_Current(self._tracer, begun))
        return ServerSpan(begun)

    async def close(self) -> None:
        """Sends what is left, as far as that goes in FLUSH_S_MAX."""
        ending = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        _, late = await asyncio.wait({ending}, timeout=FLUSH_S_MAX)
        if late:
            # The provider would wait for half a minute. Without its exporter it has nothing to wait for.
            self._exporter.shutdown()
        await ending


@contextmanager
def _child(parent: _Current, name: str, attributes: Mapping[str, str | int]) -> Iterator[None]:
    from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

    begun = parent.tracer.start_span(
        name, context=set_span_in_context(parent.span), kind=SpanKind.CLIENT, attributes=dict(attributes)
    )
    _current.set(_Current(parent.tracer, begun))
    try:
        yield
    except BaseException as error:
        # Its type alone: the text of an error may hold values.
        begun.set_attribute("error.type", type(error).__name__)
        begun.set_status(StatusCode.ERROR)
        raise
    finally:
        _current.set(parent)  # not reset by its token: a stream's end may run in another task than its beginning
        begun.end()


def _unusable(message: str) -> Conflict:
    return Conflict(f"traces cannot be sent: {message}", reason="TRACING_UNUSABLE")
