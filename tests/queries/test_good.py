"""What the gate lets through gives what ClickHouse gives for the text as it was sent."""

from collections.abc import Sequence

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from penstock.queries.gate import Gate
from penstock.queries.verdict import Checked
from penstock.queries.views import TENANT, VIEWS
from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine
from tests.queries.conftest import good
from tests.queries.house import OURS, SECRET, VERSION

PARAMETERS = {"site": "north", "least": 5.0}


async def test_the_same_as_the_plain_statement(house: ClickHouseEngine, settings: Settings) -> None:
    client = _plain(settings)
    wrong = []
    for sql in good():
        verdict = Gate().check(sql, PARAMETERS)
        if not isinstance(verdict, Checked):
            wrong.append((sql, str(verdict)))
            continue
        ours = _answer(client, verdict.sql(VERSION))
        plain = _answer(client, sql, "plain")
        if ours != plain:
            wrong.append((sql, f"{ours}\n{plain}\n{verdict.sql(VERSION)}"))
        assert SECRET not in str(ours)
    client.close()
    assert not wrong, "\n\n".join("\n".join(each) for each in wrong)


def test_there_are_enough() -> None:
    assert len(list(good())) >= 80


def _plain(settings: Settings) -> Client:
    """A handle to an engine that also has the views as plain tables, in the database `plain`."""
    client = clickhouse_connect.get_client(interface="chdb", path=str(settings.data_dir / "clickhouse"))
    client.command("CREATE DATABASE plain")
    for view in VIEWS.values():
        rows = f"SELECT * FROM {view.relation(VERSION)}"
        client.command(
            f"CREATE TABLE plain.{view.name} ENGINE = Memory AS {rows}".replace(f"{{{TENANT}:String}}", f"'{OURS}'")
        )
    return client


def _answer(client: Client, sql: str, database: str = "default") -> Sequence[object]:
    client.command(f"USE {database}")
    try:
        # Without a {name:Type} clickhouse-connect would take every % for a place to put parameters in.
        result = client.query(sql, parameters={TENANT: OURS, **PARAMETERS} if "{" in sql else None)
    except Exception as error:
        return [str(error)[:400]]
    return [*result.column_names, *[kind.name for kind in result.column_types], *map(repr, result.result_rows)]
