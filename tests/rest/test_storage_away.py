"""What readiness, health and liveness say over REST while the database is away, and when it is back."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.process import ServerProcess
from tests.rest.test_transcoding import error_of
from tests.storage.clickhouse_http import ClickHouseHttp

UNAVAILABLE = 14
TURN_S_MAX = 30.0


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseHttp]:
    with ClickHouseHttp(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory, clickhouse: ClickHouseHttp) -> Iterator[httpx.Client]:
    env = {"PENSTOCK_CLICKHOUSE_URL": clickhouse.new_database()}
    folder = tmp_path_factory.mktemp("away")
    with (
        ServerProcess(folder, "--http-port", "0", command="up", env=env) as stack,
        httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as client,
    ):
        yield client


def turned(rest: httpx.Client, path: str, told: str) -> httpx.Response:
    """The answer that tells `told`, or the last one."""
    deadline = time.monotonic() + TURN_S_MAX
    while told not in (answer := rest.get(path)).text and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def test_without_its_database_it_is_alive_and_neither_ready_nor_healthy(
    rest: httpx.Client, clickhouse: ClickHouseHttp
) -> None:
    assert turned(rest, "/ready", '"ready"').status_code == 200
    clickhouse.misbehave("drop", times=1_000_000)
    for path, reason in (("/ready", "NOT_READY"), ("/healthz", "UNHEALTHY")):
        answer = turned(rest, path, '"storage":"down"')
        error_of(answer, 503, UNAVAILABLE, reason)
        assert int(answer.headers["retry-after"]) >= 1
    assert rest.get("/live").json() == {"status": "alive"}
    health = rest.get("/health").json()
    assert (health["status"], health["database"]) == ("unhealthy", "disconnected")
    clickhouse.behave()
    assert turned(rest, "/ready", '"ready"').status_code == 200
    assert turned(rest, "/healthz", '"healthy"').status_code == 200
