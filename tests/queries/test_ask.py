"""Questions, against a stand-in for the endpoint on loopback: real HTTP, a model of a few lines."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from penstock.errors import Conflict, PenstockError, TooCostly, Unavailable
from penstock.queries.ask import Asked, Asker, MetricNote
from penstock.queries.statement import Query
from penstock.queries.views import VIEWS
from penstock.settings import Settings
from tests.queries.serving import CALLER, Area

GOOD = "SELECT count() AS n FROM events"


@dataclass
class Model:
    """Answers what it is told to, in turn, and keeps what it was asked."""

    answers: list[str] = field(default_factory=list)
    status: int = 200
    raw: bytes = b""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self) -> bytes:
        if self.raw:
            return self.raw
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": self.answers.pop(0)}}]}).encode()


@pytest.fixture
def model() -> Iterator[Model]:
    served = Model()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            served.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            served.keys.append(self.headers.get("authorization", ""))
            served.paths.append(self.path)
            body = served.answer() if served.status == 200 else b"no"
            self.send_response(served.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def asker(area: Area, settings: Settings, model: Model) -> AsyncIterator[Asker]:
    await area.add(10)
    asking = {"ask_url": f"{model.url}/", "ask_model": "tiny", "ask_api_key": SecretStr("hush")}
    made = Asker(
        area.runner, settings.model_copy(update=asking), VIEWS, [MetricNote("gmv", "Value of purchases", "sum(gmv)")]
    )
    yield made
    await made.close()


async def ask(asker: Asker, question: str = "how many events?", **options: Any) -> Asked:
    return await asker.ask(question, Query("default", "", **options), CALLER)


async def test_a_question_becomes_a_statement_and_its_rows(asker: Asker, model: Model) -> None:
    model.answers = [f"```sql\n{GOOD};\n```"]
    asked = await ask(asker)
    assert (asked.model, asked.repaired, asked.result.rows) == ("tiny", False, [[10]])
    assert asked.result.sql == "SELECT count() AS `n` FROM events AS `events`"
    [request] = model.asked
    assert (request["model"], request["temperature"]) == ("tiny", 0)
    system, user = request["messages"]
    assert user == {"role": "user", "content": "how many events?"}
    for told in ("View events", "gold_kpis", "amount Decimal(38, 6)", "gmv = sum(gmv)"):
        assert told in system["content"]
    assert (model.paths, model.keys) == (["/v1/chat/completions"], ["Bearer hush"])


async def test_what_is_wrong_with_the_first_statement_is_shown_to_the_model_once(asker: Asker, model: Model) -> None:
    for first in ("SELECT nothing FROM events", "SELECT * FROM url('http://x')", "I cannot", "SELECT {x:Int8} AS a"):
        model.answers, model.asked = [first, GOOD], []
        asked = await ask(asker)
        assert (asked.repaired, asked.result.rows) == (True, [[10]]), first
        messages = model.asked[1]["messages"]
        assert messages[2] == {"role": "assistant", "content": first}
        assert messages[3]["content"].startswith("That does not run: ")


async def test_no_statement_that_runs_is_an_error_that_shows_it(asker: Asker, model: Model) -> None:
    model.answers = ["DROP TABLE events", "SELECT file('/etc/passwd') AS x"]
    with pytest.raises(Conflict) as caught:
        await ask(asker)
    assert caught.value.reason == "ASK_FAILED"
    assert caught.value.metadata["sql"] == "SELECT file('/etc/passwd') AS x"
    assert len(model.asked) == 2


async def test_the_version_and_the_limit_are_the_callers(asker: Asker, area: Area, model: Model) -> None:
    version = area.log.head
    await area.add(5)
    model.answers = [GOOD, "SELECT event_id FROM events"]
    assert (await ask(asker, as_of_version=version)).result.rows == [[10]]
    limited = (await ask(asker, limit=2)).result
    assert (len(limited.rows), limited.truncated) == (2, True)


async def test_a_limit_that_is_reached_is_not_the_models_to_mend(asker: Asker, model: Model) -> None:
    model.answers = ["SELECT length(range(toUInt64(400000000))) AS n"]
    with pytest.raises(TooCostly):
        await ask(asker)


async def test_an_endpoint_that_does_not_work_is_said_to_and_its_key_is_not(
    asker: Asker, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    broken: list[tuple[int, bytes, type[PenstockError], str]] = [
        (503, b"", Unavailable, "ASK_UNAVAILABLE"),
        (429, b"", Unavailable, "ASK_UNAVAILABLE"),
        (401, b"", Conflict, "ASK_FAILED"),
        (200, b"<html>", Conflict, "ASK_FAILED"),
        (200, b'{"choices": []}', Conflict, "ASK_FAILED"),
        (200, b'{"choices": [{"message": {"content": null}}]}', Conflict, "ASK_FAILED"),
        (200, b"x" * 2_000_000, Conflict, "ASK_FAILED"),
    ]
    for status, raw, kind, reason in broken:
        model.status, model.raw = status, raw
        with pytest.raises(kind) as caught:
            await ask(asker)
        assert isinstance(caught.value, PenstockError)
        assert caught.value.reason == reason
        assert "hush" not in caught.value.message + caplog.text


async def test_an_endpoint_that_is_not_there(area: Area, settings: Settings) -> None:
    nowhere = settings.model_copy(update={"ask_url": "http://127.0.0.1:1/v1", "ask_model": "tiny"})
    asker = Asker(area.runner, nowhere, VIEWS)
    with pytest.raises(Unavailable) as caught:
        await ask(asker)
    assert caught.value.reason == "ASK_UNAVAILABLE"
    assert caught.value.retry_after_s
    await asker.close()


async def test_without_configuration_it_says_how(area: Area, settings: Settings) -> None:
    with pytest.raises(Conflict, match="PENSTOCK_ASK_URL"):
        await ask(Asker(area.runner, settings, VIEWS))
