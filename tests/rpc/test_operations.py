"""Long-running operations: begun once for a request, told about, cancelled, and forgotten in time."""

import asyncio

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value
from google.rpc import code_pb2, error_details_pb2

from penstock import limits
from penstock.errors import NotFound, Overloaded, Unavailable
from penstock.rpc.operations import Operation, Operations, Report, Work
from tests.waiting import until


async def end(operations: Operations, operation: Operation, tenant: str = "t") -> Operation:
    name = operation.name.removeprefix("operations/")
    await until(lambda: operations.get(tenant, name).done)
    return operations.get(tenant, name)


def forever() -> Work:
    async def work(report: Report) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    return work


async def at_once(report: Report) -> Message:
    report(Int32Value(value=1))
    return Int32Value(value=2)


async def test_progress_and_response() -> None:
    operations = Operations()
    begun = operations.start("t", "", at_once)
    assert not begun.done
    done = await end(operations, begun)
    metadata, response = Int32Value(), Int32Value()
    assert done.metadata.Unpack(metadata)
    assert done.response.Unpack(response)
    assert (metadata.value, response.value) == (1, 2)


async def test_an_error_carries_its_details() -> None:
    async def fail(report: Report) -> Message:
        raise Unavailable("gone", reason="STORAGE_UNAVAILABLE", retry_after_s=1)

    operations = Operations()
    done = await end(operations, operations.start("t", "", fail))
    info = error_details_pb2.ErrorInfo()
    assert done.error.details[0].Unpack(info)
    assert (done.error.code, info.reason) == (code_pb2.UNAVAILABLE, "STORAGE_UNAVAILABLE")


async def test_the_same_request_is_the_same_operation() -> None:
    operations = Operations()
    first = operations.start("t", "request", at_once)
    assert operations.start("t", "request", at_once).name == first.name
    assert operations.start("other", "request", at_once).name != first.name
    assert operations.start("t", "", at_once).name != operations.start("t", "", at_once).name
    await end(operations, first)
    assert operations.start("t", "request", at_once).done


async def test_cancel() -> None:
    operations = Operations()
    begun = operations.start("t", "", forever())
    cancelled = await operations.cancel("t", begun.name.removeprefix("operations/"))
    assert (cancelled.done, cancelled.error.code) == (True, code_pb2.CANCELLED)
    done = await end(operations, operations.start("t", "", at_once))
    assert (await operations.cancel("t", done.name.removeprefix("operations/"))).HasField("response")


async def test_nobody_sees_another_tenants_operation() -> None:
    operations = Operations()
    name = operations.start("t", "", at_once).name.removeprefix("operations/")
    with pytest.raises(NotFound) as refused:
        operations.get("other", name)
    assert refused.value.reason == "OPERATION_NOT_FOUND"
    with pytest.raises(NotFound):
        await operations.cancel("other", name)


async def test_what_is_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPERATIONS_KEPT_MAX", 4)
    operations = Operations()
    running = [operations.start("t", "", forever()) for _ in range(3)]
    with pytest.raises(Overloaded) as refused:
        operations.start("t", "", at_once)
    assert refused.value.reason == "TOO_MANY_OPERATIONS"
    others = await end(operations, operations.start("other", "", at_once), "other")
    assert others.done
    await operations.stop()
    assert all(operation.done for operation in running)
    await end(operations, operations.start("t", "", at_once))


async def test_what_finished_is_kept_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    operations = Operations()
    done = await end(operations, operations.start("t", "", at_once))
    operations.start("t", "", at_once)
    operations.get("t", done.name.removeprefix("operations/"))
    monkeypatch.setattr(limits, "OPERATIONS_KEPT_S", 0.0)
    operations.start("t", "", at_once)
    with pytest.raises(NotFound):
        operations.get("t", done.name.removeprefix("operations/"))
    await operations.stop()


async def test_a_tenant_that_starts_many_loses_its_own_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPERATIONS_KEPT_MAX", 4)
    operations = Operations()
    quiet = await end(operations, operations.start("quiet", "", at_once), "quiet")
    busy = [await end(operations, operations.start("busy", "", at_once), "busy") for _ in range(6)]
    assert operations.get("quiet", quiet.name.removeprefix("operations/")).done
    for nth, each in enumerate(busy):
        if nth < 3:
            with pytest.raises(NotFound):
                operations.get("busy", each.name.removeprefix("operations/"))
        else:
            assert operations.get("busy", each.name.removeprefix("operations/")).done
