"""A stream lasts no longer than the right to have it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from penstock import AccessDenied, SyncClient, event
from penstock.events.v1 import events_service_pb2, events_service_pb2_grpc
from tests.accounts.people import people
from tests.process import ServerProcess


@contextmanager
def sending(client: SyncClient) -> Iterator[None]:
    """Events come in meanwhile, so that there is something to be told."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.3):
            client.events.batch_collect([event("page_view", user_id="u")])

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    known = people(tmp_path)
    with (
        ServerProcess(tmp_path, env={"PENSTOCK_AUTH": "required"}) as server,
        SyncClient(server.target, api_key=known.keys["default", "admin"]) as admin,
    ):
        made = admin.accounts.create_key("watcher", ["viewer"])
        with SyncClient(server.target, api_key=made.key) as watcher, sending(admin):
            snapshots = watcher.kpis.watch(interval=timedelta(seconds=0.2))
            next(snapshots)
            admin.accounts.revoke_key(made.api_key.id)
            with pytest.raises(AccessDenied, match="KEY_REVOKED"):
                list(snapshots)
        with SyncClient(server.target, api_key=made.key) as late, pytest.raises(AccessDenied):
            late.kpis.metrics()


def test_a_quiet_stream_ends_too(tmp_path: Path) -> None:
    """Else whoever has a key that was revoked could still send what they had not sent yet."""
    known = people(tmp_path)
    done = threading.Event()

    def requests() -> Iterator[events_service_pb2.AppendRequest]:
        yield events_service_pb2.AppendRequest(stream_id="quiet")
        done.wait()

    with (
        ServerProcess(tmp_path, env={"PENSTOCK_AUTH": "required"}) as server,
        SyncClient(server.target, api_key=known.keys["default", "admin"]) as admin,
        grpc.insecure_channel(server.target) as channel,
    ):
        made = admin.accounts.create_key("tracker", ["ingester"])
        stub = events_service_pb2_grpc.EventServiceStub(channel)
        frames = stub.StreamEvents(requests(), metadata=(("authorization", f"Bearer {made.key}"),), timeout=60)
        try:
            assert next(frames).WhichOneof("frame") == "opened"
            admin.accounts.revoke_key(made.api_key.id)
            with pytest.raises(grpc.RpcError):
                list(frames)
        finally:
            done.set()
        assert frames.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in frames.details()


def test_a_user_who_signed_in_stays_signed_in(tmp_path: Path) -> None:
    known = people(tmp_path)
    with ServerProcess(tmp_path, env={"PENSTOCK_AUTH": "required"}) as server, SyncClient(server.target) as client:
        with pytest.raises(AccessDenied, match="CREDENTIAL_MISSING"):
            client.kpis.metrics()
        with pytest.raises(AccessDenied, match="WRONG_CREDENTIALS"):
            client.accounts.sign_in(known.user, "not the password")
        client.accounts.sign_in(known.user, "correct horse battery staple")
        assert client.accounts.me().name == known.user
        client.kpis.metrics()
        client.accounts.sign_out()
        with pytest.raises(AccessDenied, match="CREDENTIAL_MISSING"):
            client.kpis.metrics()
