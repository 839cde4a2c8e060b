"""Logs as people and as machines read them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from penstock import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def written(form: str, level: str = "info") -> io.StringIO:
    """Where everything that is logged from now on goes."""
    stream = io.StringIO()
    logs.configure(level, form, stream=stream)
    return stream


def test_json_lines_carry_the_request_and_the_tenant() -> None:
    stream = written("json")
    with structlog.contextvars.bound_contextvars(request_id="r-1", tenant="acme"):
        structlog.get_logger().info("stored", rows=3)
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"message": "stored", "rows": 3, "level": "info", "request_id": "r-1", "tenant": "acme"}


def test_what_libraries_log_looks_the_same() -> None:
    stream = written("json")
    logging.getLogger("some.library").warning("took %d s", 4)
    assert json.loads(stream.getvalue())["message"] == "took 4 s"


def test_a_traceback_shows_no_local_variables() -> None:
    stream = written("json")
    password = "hunter2"
    try:
        raise ValueError(len(password))
    except ValueError:
        structlog.get_logger().exception("failed")
    line = json.loads(stream.getvalue())
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "hunter2" not in stream.getvalue()


def test_text_is_one_line_without_colours_when_nobody_watches() -> None:
    stream = written("text")
    structlog.get_logger().warning("late", seconds=2)
    assert "\x1b" not in stream.getvalue()
    assert "late" in stream.getvalue()
    assert "seconds=2" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_less_than_the_level_is_left_out() -> None:
    stream = written("text", "warning")
    structlog.get_logger().info("chatter")
    logging.getLogger("some.library").info("chatter")
    assert stream.getvalue() == ""
