"""Questions in plain language: a language model writes the statement, everything else is as for any statement.

The model is whatever answers OpenAI's chat completions at a configured address. It is shown the question, the views and
the metrics, and what is wrong with its statement, never a row: messages of errors hold no values. What it writes is
trusted no more than what a user writes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson
import structlog

from penstock import limits
from penstock.errors import Conflict, InvalidInput, Unavailable
from penstock.queries.runner import QueryRunner
from penstock.queries.statement import Caller, Query, Result
from penstock.queries.views import View
from penstock.settings import Settings

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger()

_TASK = """\
You write one SELECT statement of ClickHouse SQL that answers the user's question from the views below, and nothing
else: no explanation, no comment, no semicolon. Only these views exist. There are no table functions, dictionaries,
settings or output formats. Times are UTC. Give every computed column a short alias in snake_case. Sort what is a
ranking or a series, and limit a ranking to what was asked for, 10 if nothing was said.
"""
_FENCE = re.compile(r"```(?:\w*\n)?(?P<sql>.*?)```", re.DOTALL)
_REASONS = frozenset({"SQL_REFUSED", "INVALID_SQL", "INVALID_PARAMETER", "DUPLICATE_COLUMN"})


@dataclass(frozen=True, slots=True)
class MetricNote:
    """What the model is told of a metric."""

    name: str
    description: str
    expression: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question's answer."""

    model: str
    repaired: bool
    result: Result


class Asker:
    """Answers questions."""

    def __init__(
        self, runner: QueryRunner, settings: Settings, views: Mapping[str, View], metrics: Sequence[MetricNote] = ()
    ) -> None:
        self._runner = runner
        self._url = settings.ask_url.rstrip("/")
        self._model = settings.ask_model
        self._key = settings.ask_api_key
        self._task = f"{_TASK}\n{_described(views, metrics)}"
        self._client: httpx.AsyncClient | None = None

    async def ask(self, question: str, query: Query, caller: Caller) -> Asked:
        """Writes a statement, and once another one if the first does not run, and runs it as `query` says otherwise.

        Raises Conflict (ASK_NOT_CONFIGURED, ASK_FAILED), Unavailable (ASK_UNAVAILABLE), and what running raises.
        """
        if not (self._url and self._model):
            raise Conflict(
                "no language model is configured: set PENSTOCK_ASK_URL to the address of an OpenAI-compatible endpoint,"
                " such as http://localhost:11434/v1, PENSTOCK_ASK_MODEL to a model that it has, and"
                " PENSTOCK_ASK_API_KEY if it wants one",
                reason="ASK_NOT_CONFIGURED",
            )
        messages = [{"role": "system", "content": self._task}, {"role": "user", "content": question}]
        sql = await self._written(messages)
        try:
            return Asked(self._model, False, await self._runner.run(replace(query, sql=sql), caller))
        except InvalidInput as error:
            if error.reason not in _REASONS:
                raise
            mend = f"That does not run: {error.message}\nWrite it again, the whole statement and nothing else."
            messages += [{"role": "assistant", "content": sql}, {"role": "user", "content": mend}]
        sql = await self._written(messages)
        try:
            return Asked(self._model, True, await self._runner.run(replace(query, sql=sql), caller))
        except InvalidInput as error:
            if error.reason not in _REASONS:
                raise
            raise Conflict(
                f"the model wrote no statement that runs: {error.message}",
                reason="ASK_FAILED",
                metadata={"sql": sql[:4_096]},
            ) from error

    async def close(self) -> None:
        """Ends the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _written(self, messages: Sequence[Mapping[str, str]]) -> str:
        # Here, because few servers have a language model, and the import takes 25 ms of CPU.
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=limits.ASK_TIMEOUT_S)
        key = self._key.get_secret_value()
        try:
            async with self._client.stream(
                "POST",
                f"{self._url}/chat/completions",
                headers={"authorization": f"Bearer {key}"} if key else {},
                json={"model": self._model, "temperature": 0, "messages": messages},
            ) as response:
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > limits.ASK_BYTES_MAX:
                        raise _failed("the endpoint's answer is too long")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Not what it says, nor what the endpoint answered: either may quote the key.
            log.warning("the language model cannot be reached", error=type(error).__name__)
            raise _unavailable("does not answer") from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
            raise _unavailable(f"answers {response.status_code}")
        if response.status_code != httpx.codes.OK:
            log.warning("the language model refuses", status=response.status_code)
            raise _failed(f"the endpoint answers {response.status_code}: check address, model and key")
        return _statement(body)


def _statement(body: bytes) -> str:
    """The statement in the endpoint's answer, as it came or in a fence of Markdown."""
    try:
        found = orjson.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise _failed("the endpoint's answer is no chat completion") from error
    if not isinstance(found, str) or not found.strip():
        raise _failed("the model answered nothing")
    fenced = _FENCE.search(found)
    return (fenced["sql"] if fenced else found).strip().rstrip(";")


def _described(views: Mapping[str, View], metrics: Sequence[MetricNote]) -> str:
    lines: list[str] = []
    for view in views.values():
        lines.append(f"View {view.name}: {view.description}")
        lines += [f"  {column.name} {column.type}: {column.description}" for column in view.columns]
        lines.append("")
    if metrics:
        lines.append("How the house defines its metrics, each over rows of gold:")
        lines += [f"  {metric.name} = {metric.expression}: {metric.description}" for metric in metrics]
    return "\n".join(lines)


def _failed(text: str) -> Conflict:
    return Conflict(text, reason="ASK_FAILED")


def _unavailable(what: str) -> Unavailable:
    return Unavailable(f"the language model {what}", reason="ASK_UNAVAILABLE", retry_after_s=5.0)
