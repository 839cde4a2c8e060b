"""What a server that starts must not load: everything here costs each of its starts, and memory ever after."""

import subprocess
import sys
from pathlib import Path

import pytest

from penstock_client import SyncClient, event
from tests.process import ServerProcess

# Only the worker needs them, or a rare call. Together they take more CPU time than all that a start needs.
HEAVY = (
    *("statsforecast", "statsmodels", "pandas", "ruptures", "implicit", "sklearn", "numba", "httpx"),
    *("scipy", "penstock.kpis.anomaly_judgement", "penstock.kpis.forecast_models", "penstock.recommendations.factors"),
)


def loaded_by(code: str) -> set[str]:
    """The modules of a fresh interpreter that ran `code`."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(ran.stdout.split())


def test_the_server_is_imported_without_what_only_its_worker_needs() -> None:
    loaded = loaded_by("import penstock.app, penstock.stack")
    assert {"penstock.app", "penstock.kpis.outlooks", "penstock.recommendations.models", "chdb"} <= loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("module", ["penstock.kpis.anomalies", "penstock.kpis.forecasts", "penstock.kpis.trend"])
def test_what_the_wire_names_is_imported_without_what_computes_it(module: str) -> None:
    assert not loaded_by(f"import {module}") & set(HEAVY)


def test_the_heavy_modules_are_named_as_they_are() -> None:
    """Else the tests above could not fail."""
    used = (
        "from penstock.kpis import anomaly_judgement, forecast_models\n"
        "from penstock.recommendations import factors\n"
        "import httpx"
    )
    assert {name for name in HEAVY if name not in ("sklearn", "numba")} <= loaded_by(used)


def test_a_server_that_works_has_no_pandas(tmp_path: Path) -> None:
    """pyarrow would import it at the first commit, at the latest."""
    with ServerProcess(tmp_path / "data") as server:
        with SyncClient(server.target) as client, client.events.writer("imports") as writer:
            writer.send(event("page_view", visitor_id="v1"))
        maps = Path(f"/proc/{server.pid}/maps").read_text(encoding="utf-8")
    assert "/pyarrow/" in maps
    assert "/pandas/" not in maps
    assert "/scipy/" not in maps


def test_only_pandas_itself_is_hidden_and_only_for_so_long() -> None:
    code = (
        "from penstock.cli.loading import without_pandas\n"
        "with without_pandas():\n"
        "    import numpy, pyarrow\n"
        "    pyarrow.array([1]), pyarrow.array(numpy.zeros(1))\n"
        "    try:\n"
        "        import pandas\n"
        "        raise AssertionError('it was found')\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert 'penstock.cli.loading' in str(error)\n"
    )
    assert not loaded_by(code) & set(HEAVY)
    assert "pandas" in loaded_by(f"{code}import pandas")


def test_imports_leave_the_collector_as_it_was() -> None:
    code = (
        "import gc\n"
        "from penstock.cli.loading import uncollected\n"
        "import penstock.cli\n"
        "assert gc.isenabled()\n"
        "gc.disable()\n"
        "with uncollected():\n"
        "    pass\n"
        "assert not gc.isenabled()\n"
    )
    assert "penstock.cli" in loaded_by(code)
