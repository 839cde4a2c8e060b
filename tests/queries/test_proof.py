"""What the gate lets through opens no file, connects to nothing, and shows no other tenant's rows.

Statements are made of good ones, cut apart and put together with pieces of hostile ones. Whatever of that passes the
gate is run, in an engine that could do all of it: the first test shows that the traps work.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from hypothesis import assume, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from penstock.queries.gate import Gate
from penstock.queries.verdict import Checked, Refused
from penstock.queries.views import TENANT
from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine
from tests.queries.conftest import good, hostile
from tests.queries.engine_ast import objections
from tests.queries.house import OURS, SECRET, VERSION
from tests.queries.watch import Listener, OpenedFiles, watched

FILE_SECRET = "FILE-SECRET-91c2"
PARAMETERS = {"site": "north", "least": 5.0, "x": 1}
GOOD = sorted(good())
_WORD = re.compile(r"'(?:[^'\\]|\\.|'')*'|`[^`]*`|\"[^\"]*\"|\w+|\s+|.", re.DOTALL)
GOOD_PIECES = sorted(
    {
        piece
        for sql in GOOD
        for piece in (sql.removeprefix("SELECT ").split(" FROM ")[0], f"({sql})", *_WORD.findall(sql))
    }
)


@dataclass(frozen=True, slots=True)
class Trap:
    """An engine with another tenant's rows, a file with a secret, and a port that counts who comes."""

    client: Client
    file: Path
    opened: OpenedFiles
    listener: Listener

    def run(self, sql: str, bound: dict[str, object] | None = None) -> str:
        """All that a statement shows: names, rows, or the error."""
        try:
            result = self.client.query(sql, parameters=bound or None)
        except ClickHouseError as error:
            return str(error)
        return f"{result.column_names}{result.result_rows}"

    def assert_untouched(self, sql: str) -> None:
        """Nothing was opened, made or connected to since the last time."""
        assert self.opened.take() == [], sql
        assert self.listener.connections == 0, sql


@pytest.fixture
def trap(house: ClickHouseEngine, settings: Settings, tmp_path: Path) -> Iterator[Trap]:
    folder = tmp_path / "canary"
    folder.mkdir()
    file = folder / "secret.csv"
    file.write_text(FILE_SECRET)
    bounds = {
        "max_execution_time": 2,
        "max_memory_usage": 500_000_000,
        "max_result_rows": 1000,
        "result_overflow_mode": "break",
    }
    client = clickhouse_connect.get_client(
        interface="chdb", path=str(settings.data_dir / "clickhouse"), settings=bounds
    )
    with watched(folder) as (opened, listener):
        yield Trap(client, file, opened, listener)
    client.close()


def test_the_traps_work(trap: Trap) -> None:
    assert FILE_SECRET in trap.run(f"SELECT file('{trap.file}')")
    assert trap.opened.take() == ["secret.csv"]
    trap.run(f"SELECT 1 INTO OUTFILE '{trap.file}.out'")
    assert trap.opened.take()
    trap.run(
        f"SELECT * FROM url('http://127.0.0.1:{trap.listener.port}/', 'CSV', 'a String') SETTINGS http_max_tries = 1"
    )
    assert trap.listener.connections > 0
    assert SECRET in trap.run("SELECT * FROM silver_events")
    assert SECRET in trap.run("SELECT path FROM bronze_events WHERE tenant = 'theirs'")


def test_the_corpus_touches_nothing(trap: Trap) -> None:
    for case in hostile(str(trap.file), trap.listener.port):
        assert isinstance(Gate().check(case.sql, PARAMETERS), Refused), case.sql
        trap.assert_untouched(case.sql)


def test_the_engine_reads_the_good_ones_as_the_gate_does(trap: Trap) -> None:
    for sql in good():
        verdict = Gate().check(sql, PARAMETERS)
        assert isinstance(verdict, Checked)
        assert objections(trap.client, verdict.sql(VERSION), _bound(verdict)) == [], sql


def test_the_second_opinion_can_object(trap: Trap) -> None:
    for sql in (
        "SELECT file('x')",
        "SELECT * FROM commits",
        "SELECT 1 IN (commits)",
        "SELECT * FROM url('x')",
        "SHOW TABLES",
    ):
        assert objections(trap.client, sql, {}), sql


@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_whatever_passes_is_harmless(trap: Trap, examples: int) -> None:
    gate = Gate()
    passed = 0

    @hypothesis(max_examples=examples)
    @given(_spliced(_pieces(str(trap.file), trap.listener.port)))
    def check(sql: str) -> None:
        nonlocal passed
        verdict = gate.check(sql, PARAMETERS)
        if isinstance(verdict, Refused):
            return
        passed += 1
        text = verdict.sql(VERSION)
        shown = trap.run(text, _bound(verdict))
        trap.assert_untouched(sql)
        assert SECRET not in shown.split("In scope")[0], sql
        assert FILE_SECRET not in shown, sql
        assert objections(trap.client, text, _bound(verdict)) == [], sql
        # Read once more, what was printed is the same: sqlglot and the printing agree on it.
        again = gate.check(_readable(verdict), PARAMETERS)
        assert isinstance(again, Checked), (sql, again)
        assert again.pieces == verdict.pieces, sql

    check()
    assert passed > examples / 50


def test_texts_mean_what_clickhouse_takes_them_for(trap: Trap) -> None:
    tricky = st.text(st.sampled_from("'\"`\\ \tn0xeNab/%_-*{}:;$#é☃\U0001f600"), max_size=12)
    written = st.tuples(tricky, st.sampled_from(["raw", "doubled", "escaped"])).map(_literal)

    @hypothesis(max_examples=150)
    @given(st.lists(written, min_size=1, max_size=3))
    def check(literals: list[str]) -> None:
        sql = "SELECT " + ", ".join(f"{literal} AS c{index}" for index, literal in enumerate(literals))
        verdict = Gate().check(sql)
        assume(isinstance(verdict, Checked))
        assert isinstance(verdict, Checked)
        plain = trap.run(sql)
        assume(not plain.startswith("Code"))  # sqlglot takes '\\x' for a text; ClickHouse does not
        assert trap.run(verdict.sql(VERSION)) == plain, (sql, verdict.pieces)

    check()


@hypothesis(max_examples=300)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(sorted({word for sql in good() for word in _WORD.findall(sql)}))).map("".join)
)
def test_the_gate_always_answers(sql: str) -> None:
    assert isinstance(Gate(remembered=0).check(sql), (Checked, Refused))


def _literal(choice: tuple[str, str]) -> str:
    content, way = choice
    if way == "doubled":
        content = content.replace("\\", "\\\\").replace("'", "''")
    elif way == "escaped":
        content = content.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{content}'"


def _bound(checked: Checked) -> dict[str, object]:
    values: dict[str, object] = {name: PARAMETERS[name] for name in checked.parameters}
    return values | ({TENANT: OURS} if checked.views else {})


def _readable(checked: Checked) -> str:
    text = "".join(piece if isinstance(piece, str) else f"`{piece.name}`" for piece in checked.pieces)
    return text.replace("`penstock_with_", "`")


@st.composite
def _spliced(draw: st.DrawFn, pieces: list[str]) -> str:
    """A good statement with some of its words replaced by words, or by expressions, of another, mostly hostile one."""
    words = _WORD.findall(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 3))):
        other = draw(st.sampled_from(pieces) | st.sampled_from(GOOD_PIECES))
        at = draw(st.integers(0, len(words) - 1))
        words[at : at + draw(st.integers(0, 2))] = [" ", other, " "]
    return "".join(words)


def _pieces(file: str, port: int) -> list[str]:
    """Hostile expressions and tables, and single words of hostile statements."""
    made = set(_WORD.findall("'`\\\\--/**/;,(IN FROM tenant silver_events commits system file url"))
    for case in hostile(file, port):
        body = re.sub(r"^\s*(SELECT|WITH)\s", "", case.sql)
        made |= {
            body,
            body.split(" FROM ")[0],
            body.split(" FROM ")[-1],
            f"({case.sql})",
            *_WORD.findall(case.sql[:200]),
        }
    return sorted(piece for piece in made if piece.strip() and len(piece) < 300)
