"""Logs: lines for people or JSON for machines, on standard error, with request id and tenant where there are any."""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

# They tell of every retry and connection; what matters of it reaches our own log as an error of the call that met it.
_TALKATIVE = (
    "clickhouse_connect",
    "urllib3",
    "grpc",
    "asyncio",
    "httpx",
    "httpcore",
    "faiss",
    "implicit",
    "opentelemetry",
)


def configure(level: str, form: str, *, stream: TextIO | None = None) -> None:
    """Sets up structlog and the standard library's logging alike; `form` is `text` or `json`.

    What a part binds with `structlog.contextvars.bind_contextvars(request_id=…, tenant=…)` stands in every line that is
    written within that call.
    """
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # loggers are made at import, before this runs
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(form, out)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.ERROR, root.level))


def _rendering(form: str, out: TextIO) -> list[Processor]:
    if form == "json":
        return [
            # Without local variables: they hold what clients sent, and secrets.
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    return [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)]
