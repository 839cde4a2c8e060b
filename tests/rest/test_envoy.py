"""The configuration that is rendered, and the process that runs it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from penstock.rest import contract
from penstock.rest import envoy as envoy_module
from penstock.rest.config import render, template_path
from penstock.rest.envoy import EnvoyFailed, EnvoyProcess, validate, write_config
from penstock.settings import Settings
from tests.rest.conftest import StandInProcess
from tests.rest.stand_in import QUIET_S, stand_in_server
from tests.rest.test_transcoding import error_of


@asynccontextmanager
async def running(settings: Settings, *, grpc_port: int) -> AsyncIterator[EnvoyProcess]:
    envoy = EnvoyProcess(settings, grpc_port=grpc_port)
    await envoy.start()
    try:
        yield envoy
    finally:
        await envoy.stop()


@asynccontextmanager
async def client_of(envoy: EnvoyProcess) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{envoy.http_port}"
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:
        yield client


async def until(true: Callable[[], bool], what: str) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never: {what}")


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"http_host": "0.0.0.0", "grpc_host": "0.0.0.0"},
        {"http_host": "::1", "grpc_host": "::"},
        {"http_host": "localhost", "grpc_host": "localhost"},
        {"cors_origins": 'https://a.example, https://b.example:8443, "]}\n: ${x} {{'},
        {"cors_origins": ""},
        {"access_log": "/dev/null"},
    ],
)
async def test_envoy_accepts_what_is_rendered(settings: Settings, tmp_path: Path, changed: dict[str, Any]) -> None:
    config = write_config(settings.model_copy(update=changed), grpc_port=50051, folder=tmp_path)
    await validate(config)


async def test_envoy_says_what_is_wrong(settings: Settings, tmp_path: Path) -> None:
    config = write_config(settings, grpc_port=50051, folder=tmp_path)
    config.write_text(config.read_text().replace('"penstock.kpis.v1.KpiService"', '"penstock.kpis.v1.NoService"'))
    with pytest.raises(EnvoyFailed, match="NoService"):
        await validate(config)


def test_every_placeholder_has_a_value_of_its_type(settings: Settings) -> None:
    config = render(settings, grpc_port=50051)
    assert "${" not in json.dumps(config)
    text = yaml.safe_load(template_path().read_text())
    assert text["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == "${http_port}"
    assert isinstance(config["admin"], dict)
    assert config["admin"]["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 0}}


def test_every_rpc_has_a_rest_face(settings: Settings) -> None:
    assert len(contract.service_names()) >= 4
    without = [rpc for rpc in contract.rpcs() if not rpc.bindings]
    assert [rpc.path for rpc in without if "no REST face" not in rpc.comment] == []
    assert {rpc.method.name for rpc in without} == {"StreamProducts", "StreamFeedback"}


def test_streams_have_no_time_limit_and_slow_rpcs_a_long_one(settings: Settings) -> None:
    config: Any = render(settings, grpc_port=50051)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    limits_of = {route["match"]["path"]: route["route"]["timeout"] for route in routes if "path" in route["match"]}
    assert limits_of["/penstock.events.v1.EventService/TailEvents"] == "0s"
    assert limits_of["/v1/events:upload"] == "0s"
    assert limits_of["/penstock.pipeline.v1.PipelineService/RunPipeline"] == "605s"


# --- the process -----------------------------------------------------------------------------------------------------


async def test_without_a_server_envoy_answers_in_the_usual_shape(settings: Settings, free_port: int) -> None:
    async with running(settings, grpc_port=free_port) as envoy, client_of(envoy) as client:
        answer = await client.get("/health")
        assert answer.status_code == 503
        assert answer.json()["code"] == 14
        assert set(answer.json()) == {"code", "message", "details"}


async def test_a_server_that_comes_back_is_found_again(settings: Settings, free_port: int) -> None:
    async with running(settings, grpc_port=free_port) as envoy, client_of(envoy) as client:
        assert (await client.get("/health")).status_code == 503
        server = stand_in_server(settings)
        server.add_insecure_port(f"127.0.0.1:{free_port}")
        await server.start()
        try:
            for _ in range(100):
                answer = await client.get("/health")
                if answer.status_code == 200:
                    break
                await asyncio.sleep(0.1)
            assert answer.status_code == 200
        finally:
            await server.stop(0)


async def test_a_server_that_is_not_serving_can_still_be_asked_why(settings: Settings, free_port: int) -> None:
    server = stand_in_server(settings)
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    await state.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    server.add_insecure_port(f"127.0.0.1:{free_port}")
    await server.start()
    try:
        async with running(settings, grpc_port=free_port) as envoy, client_of(envoy) as client:
            assert (await client.get("/health")).status_code == 200
    finally:
        await server.stop(0)


async def test_a_taken_port_is_told(settings: Settings, free_port: int) -> None:
    taken = settings.model_copy(update={"http_port": free_port})
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", free_port))
        listening.listen()
        with pytest.raises(EnvoyFailed, match="Address already in use"):
            await EnvoyProcess(taken, grpc_port=1).start()


async def test_two_envoys_do_not_share_a_port(settings: Settings, free_port: int, tmp_path: Path) -> None:
    fixed = settings.model_copy(update={"http_port": free_port})
    async with running(fixed, grpc_port=1):
        second = fixed.model_copy(update={"data_dir": tmp_path / "second"})
        with pytest.raises(EnvoyFailed, match="Address already in use"):
            await EnvoyProcess(second, grpc_port=1).start()


async def test_stop_ends_it_and_wait_tells(settings: Settings) -> None:
    envoy = EnvoyProcess(settings, grpc_port=1)
    await envoy.start()
    waiting = asyncio.create_task(envoy.wait())
    process = psutil.Process(envoy.pid)
    await envoy.stop()
    assert await waiting == 0
    assert not process.is_running()
    await envoy.stop()


async def test_a_draining_envoy_takes_no_new_connections(settings: Settings) -> None:
    async with running(settings, grpc_port=1) as envoy:
        await envoy.drain()

        def refused() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", envoy.http_port)) != 0

        await until(refused, "new connections are refused")


async def test_envoy_dies_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with StandInProcess(tmp_path) as stand_in:
        envoy = psutil.Process(stand_in.envoy_pid)
        psutil.Process(stand_in.pid).kill()
        await until(lambda: not envoy.is_running() or envoy.status() == psutil.STATUS_ZOMBIE, "envoy died")


def test_nothing_is_warned_of_at_start(stand_in: StandInProcess) -> None:
    assert "envoy says" not in stand_in.log()


async def test_requests_are_logged_where_wanted_without_their_query(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    logging = settings.model_copy(update={"access_log": str(file)})
    async with running(logging, grpc_port=1) as envoy, client_of(envoy) as client:
        await client.get("/nowhere?who=me", headers={"x-request-id": "mine"})
    entry = json.loads(file.read_text().splitlines()[0])
    assert (entry["path"], entry["status"], entry["request_id"]) == ("/nowhere", 404, "mine")
    assert "who" not in file.read_text()


async def test_only_named_origins_may_read(settings: Settings) -> None:
    named = settings.model_copy(update={"cors_origins": "https://shop.example"})
    async with running(named, grpc_port=1) as envoy, client_of(envoy) as client:
        known = await client.get("/nowhere", headers={"origin": "https://shop.example"})
        assert known.headers["access-control-allow-origin"] == "https://shop.example"
        unknown = await client.get("/nowhere", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in unknown.headers
        error_of(unknown, 404, 5, "NO_SUCH_PATH")


async def test_a_quiet_stream_outlives_the_ordinary_idle_time(
    settings: Settings, stand_in: StandInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the rpc's own route holds, though the request came in by another."""

    def impatient(settings: Settings, *, grpc_port: int) -> dict[str, Any]:
        config: dict[str, Any] = render(settings, grpc_port=grpc_port)
        manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["stream_idle_timeout"] = f"{QUIET_S / 4}s"
        return config

    monkeypatch.setattr(envoy_module, "render", impatient)
    grpc_port = int(stand_in.grpc_target.rpartition(":")[2])
    async with running(settings, grpc_port=grpc_port) as envoy, client_of(envoy) as client:
        answer = await client.get("/v1/events:tail", params={"resume_token": "quiet"})
        assert answer.status_code == 200
        assert '"end":' in answer.text.strip().splitlines()[-1]


async def test_more_than_the_server_is_to_have_at_once_is_refused_by_envoy(
    settings: Settings, stand_in: StandInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The circuit breaker, with a bound that a test can reach: it opens, says so in the usual shape, and closes."""

    def narrow(settings: Settings, *, grpc_port: int) -> dict[str, Any]:
        config: dict[str, Any] = render(settings, grpc_port=grpc_port)
        (threshold,) = config["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"]
        assert threshold["max_requests"] > 1
        threshold["max_requests"] = 1
        return config

    monkeypatch.setattr(envoy_module, "render", narrow)
    grpc_port = int(stand_in.grpc_target.rpartition(":")[2])
    async with running(settings, grpc_port=grpc_port) as envoy, client_of(envoy) as client:
        async with client.stream("GET", "/v1/events:tail", params={"resume_token": "quiet"}) as tail:
            assert tail.status_code == 200
            refused = await client.get("/v1/streams/any")
            error_of(refused, 503, 14, "SERVER_UNREACHABLE")
        for _ in range(100):  # Envoy learns of the stream's end a little later
            answer = await client.get("/v1/streams/any")
            if answer.status_code == 200:
                break
            await asyncio.sleep(0.05)
        assert answer.status_code == 200


async def test_standard_grpc_streams_are_not_held_back(stand_in: StandInProcess) -> None:
    """Reflection does not half-close: on a route that buffers it would wait for ever."""
    async with grpc.aio.insecure_channel(stand_in.http_target) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await asyncio.wait_for(watch.read(), 5) == b"\x08\x01"
        watch.cancel()
