"""A server that hostile requests are sent to, and what must hold of it after each of them."""

from collections.abc import Iterator

import grpc
import pytest

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from tests.faults.hostile.calls import invoke
from tests.process import ServerProcess


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose pipeline runs only when it is asked to: hundreds of small runs are most of the time else."""
    with ServerProcess(tmp_path_factory.mktemp("server"), env={"PENSTOCK_PIPELINE_ENABLED": "false"}) as running:
        yield running


@pytest.fixture(scope="package")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """To the module's server."""
    with grpc.insecure_channel(server.target, options=[("grpc.max_send_message_length", -1)]) as opened:
        yield opened


@pytest.fixture(autouse=True)
def unharmed(server: ServerProcess, channel: grpc.Channel) -> Iterator[None]:
    """After every test the server lives, takes events, and met nothing that it had not foreseen."""
    log = server.data_dir / "server.log"
    before = log.stat().st_size
    yield
    assert server.running()
    good = pb.BatchCollectRequest(events=[ev.Event(event_type="login")])
    assert invoke(channel, "BatchCollect", good.SerializeToString())[0] is grpc.StatusCode.OK
    with log.open("rb") as read:
        read.seek(before)
        said = read.read().decode(errors="replace")
    assert "Traceback" not in said, said
    assert "[error" not in said, said
