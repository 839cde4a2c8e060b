"""The sync client against the model server, which runs on the loop that the sync clients share."""

import threading
from collections.abc import Iterator

import pytest

import penstock
from penstock_client.loop_thread import shared_loop
from tests.client.model_server import ModelServer


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """A model server."""
    server = ModelServer()
    shared_loop().run(server.start())
    yield server
    shared_loop().run(server.stop())


@pytest.fixture
def client(model: ModelServer) -> Iterator[penstock.SyncClient]:
    """A sync client of it."""
    with penstock.SyncClient(model.target, timeout_s=5) as opened:
        yield opened


def test_rows_arrive_in_order(client: penstock.SyncClient, model: ModelServer) -> None:
    """Through the short way and the long one."""
    with client.events.writer("s", batch_rows=10) as writer:
        for n in range(95):
            writer.send(event_type="page_view", user_id=f"u{n}")
        writer.send_batch({"event_type": "page_view", "user_id": f"u{n}"} for n in range(95, 120))
        writer.flush()
        assert writer.next_offset == 120
    assert model.stored("s") == [f"u{n}" for n in range(120)]
    assert writer.stats.rows_accepted == 120


def test_many_threads_may_send(client: penstock.SyncClient, model: ModelServer) -> None:
    """Every row once."""

    def work(first: int) -> None:
        for n in range(first, first + 200):
            writer.send(event_type="page_view", user_id=f"u{n}")

    with client.events.writer("s", batch_rows=7) as writer:
        threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 1_000, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(model.stored("s")) == sorted(f"u{n}" for n in range(1_000))


def test_acks_and_refusals(client: penstock.SyncClient) -> None:
    """Acks are iterated, refusals raised."""
    with client.events.writer("s") as writer:
        acks = writer.acks()
        writer.send(event_type="page_view")
        writer.flush()
        assert next(acks).accepted_rows == 1
    with pytest.raises(penstock.RowsRejected), client.events.writer("t") as writer:
        writer.send(event_type="")


def test_an_error_of_the_body_is_what_is_raised(client: penstock.SyncClient) -> None:
    """Leaving by an exception neither waits nor hides it."""
    with pytest.raises(ZeroDivisionError), client.events.writer("s") as writer:  # noqa: PT012
        writer.send(event_type="page_view")
        raise ZeroDivisionError


async def test_it_works_beside_a_running_event_loop(client: penstock.SyncClient) -> None:
    """As in a notebook."""
    with client.events.writer("s") as writer:
        writer.send(event_type="page_view")


def test_it_must_not_be_called_on_its_own_loop(client: penstock.SyncClient) -> None:
    """Which would wait for itself."""

    async def inside() -> None:
        with pytest.raises(RuntimeError, match="its own event loop"):
            client.operations.health()

    shared_loop().run(inside())
