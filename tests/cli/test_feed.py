"""`penstock replay`, `simulate`, `kpis` and `status` against a running stack, and the demo as a whole."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from penstock.cli import app
from tests.process import ServerProcess


def ran(*arguments: str, exit_code: int = 0) -> Result:
    """What the command made of it."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def test_the_shipped_orders_are_replayed_once(stack: ServerProcess) -> None:
    replay = ("replay", "--now", "--stream", "shipped", "--limit", "5000", "--address", stack.target)
    assert "5,000 rows stored" in ran(*replay).output
    again = ran(*replay).output
    assert "0 rows stored" in again
    assert "5,000 rows were there already" in again


def test_a_file_is_mapped_and_its_bad_rows_are_told(stack: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    file.write_text("kind,who,cost\npage_view,ann,\npurchase,ann,9.5\npurchase,bob,dear\n", encoding="utf-8")
    mapping = [
        part for pair in ("event_type=kind", "user_id=who", "price=cost", "site_id='csv'") for part in ("--map", pair)
    ]
    told = ran("replay", str(file), *mapping, "--address", stack.target).output
    assert "2 rows stored" in told
    assert "1 rows were rejected (INVALID_PRICE 1)" in told


def test_a_mapping_that_does_not_fit_is_explained(stack: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "unmapped.csv"
    file.write_text("kind\npage_view\n", encoding="utf-8")
    assert "nonsense is no preset" in ran("replay", str(file), "--map", "nonsense", exit_code=2).stderr
    told = ran("replay", str(file), "--map", "event_type=missing", "--address", stack.target, exit_code=1)
    assert "the file has no column missing" in told.stderr


def test_visitors_are_simulated_under_their_own_site(stack: ServerProcess) -> None:
    told = ran("simulate", "--rate", "200", "--duration", "1s", "--address", stack.target).output
    stored = re.search(r"([\d,]+) simulated events stored, of site simulated-shop", told)
    assert stored is not None
    assert int(stored[1].replace(",", "")) > 10
    ran("kpis", "--site", "simulated-shop", "--address", stack.target)
    figures = json.loads(ran("kpis", "--site", "no-such-shop", "--json", "--address", stack.target).output)
    assert "latest_kpis" not in figures
    assert figures["reason"]


def test_status_of_a_healthy_server(stack: ServerProcess) -> None:
    assert "healthy" in ran("status", "--address", stack.target).output
    assert json.loads(ran("status", "--json", "--address", stack.target).output)["server"]["status"] == "healthy"


def test_the_demo_removes_nothing_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    told = ran("demo", "--data-dir", str(tmp_path), "--grpc-port", "0", "--http-port", "0", exit_code=1)
    assert "holds something that no demo made" in told.stderr
    assert (tmp_path / "precious").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_says_what_the_orders_say(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    told = ran("demo", "--exit", "--data-dir", str(folder), "--grpc-port", "0", "--http-port", "0").output
    # Counted from the file by other means: distinct invoices without C, Σ price × quantity, distinct buyers.
    for figure in ("370,931", "15,899", "GBP 7,341,292.11", "3,616", "/metrics"):
        assert figure in told
    # It can be run again on what it left.
    assert "15,899" in ran("demo", "--exit", "--data-dir", str(folder), "--grpc-port", "0", "--http-port", "0").output
