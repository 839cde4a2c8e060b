"""Every rpc, called by everybody: who may is let in, who may not is told why, whatever else they send."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import symbol_database
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penstock.access.v1 import access_pb2
from penstock.rpc.needs import needs_of
from penstock.rpc.principal import ROLES, allowed_by
from tests.accounts.calling import called
from tests.accounts.people import People, people
from tests.contract.test_contract import METHODS, by_name
from tests.process import ServerProcess

DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
SECONDS = 0.4  # that a call may take which lasts as long as its client likes
GARBAGE = b"\xff\xff\xff"


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[People, ServerProcess]]:
    """Callers of every kind, and a server that requires credentials."""
    folder = tmp_path_factory.mktemp("matrix")
    known = people(folder)
    env = {"PENSTOCK_AUTH": "required", "PENSTOCK_RATE_LIMIT": "100000"}
    with ServerProcess(folder, env=env) as server:
        yield known, server


@pytest.fixture(scope="module")
def known(callers: tuple[People, ServerProcess]) -> People:
    return callers[0]


@pytest.fixture(scope="module")
def channel(callers: tuple[People, ServerProcess]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(callers[1].target) as opened:
        yield opened


def outcome(
    channel: grpc.Channel, method: MethodDescriptor, credential: str | None, body: bytes = b""
) -> tuple[grpc.StatusCode, str]:
    """How a call ends: its status, and the reason of its error."""
    try:
        answer = called(channel, method, body, credential, SECONDS)
        if method.server_streaming:
            for _ in answer:
                pass
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        info = error_details_pb2.ErrorInfo()
        if status is not None and status.details:
            status.details[0].Unpack(info)
        return error.code(), info.reason
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_each_role_may_call_what_the_contract_says(
    channel: grpc.Channel, known: People, method: MethodDescriptor
) -> None:
    needed = needs_of(method).role
    for name, role in ROLES.items():
        status, reason = outcome(channel, method, known.keys["default", name])
        may = needed in allowed_by(frozenset([role])) or needed == access_pb2.ROLE_CREDENTIAL
        assert (reason == "ROLE_MISSING") is not may, (name, status, reason)
        if method.name not in {"CreateToken", "RefreshToken", "FinishSignIn"}:
            assert (status in DENIED) is not may, (name, status, reason)


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_who_brings_nothing_is_let_in_where_nothing_is_needed(channel: grpc.Channel, method: MethodDescriptor) -> None:
    status, reason = outcome(channel, method, None)
    if needs_of(method).role == access_pb2.ROLE_ANONYMOUS:
        assert reason != "CREDENTIAL_MISSING"
    else:
        assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING")


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_what_does_not_hold_is_refused_by_every_rpc(
    channel: grpc.Channel, known: People, method: MethodDescriptor
) -> None:
    """Also where nothing would be needed: who says who they are is held to it."""
    for credential, expected in (
        (known.expired_key, "KEY_EXPIRED"),
        (known.revoked_key, "KEY_REVOKED"),
        (known.expired_token, "TOKEN_EXPIRED"),
        (known.revoked_token, "TOKEN_REVOKED"),
        (known.other_audience, "TOKEN_INVALID"),
        (known.unsigned, "TOKEN_INVALID"),
        (known.keys["default", "admin"][:-1] + "!", "KEY_INVALID"),
        ("nonsense", "TOKEN_INVALID"),
        ("", "CREDENTIAL_UNKNOWN"),
    ):
        found = outcome(channel, method, credential)
        assert found == (grpc.StatusCode.UNAUTHENTICATED, expected), credential


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_who_may_not_call_learns_nothing_of_the_request(
    channel: grpc.Channel, known: People, method: MethodDescriptor
) -> None:
    """A request that cannot even be read is refused for its caller, not for what it says."""
    assert symbol_database.Default().GetSymbol(method.input_type.full_name) is not None
    if needs_of(method).role != access_pb2.ROLE_ANONYMOUS:
        assert outcome(channel, method, None, GARBAGE)[1] == "CREDENTIAL_MISSING"
        assert outcome(channel, method, known.expired_key, GARBAGE)[1] == "KEY_EXPIRED"


def test_channelz_is_for_who_runs_the_server(channel: grpc.Channel, known: People) -> None:
    from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

    stub = channelz_pb2_grpc.ChannelzStub(channel)

    def ask(credential: str | None) -> grpc.StatusCode:
        metadata = [("authorization", f"Bearer {credential}")] if credential is not None else []
        try:
            stub.GetServers(channelz_pb2.GetServersRequest(), metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    assert ask(None) is grpc.StatusCode.PERMISSION_DENIED
    assert ask(known.keys["default", "analyst"]) is grpc.StatusCode.PERMISSION_DENIED
    assert ask(known.keys["other", "admin"]) is grpc.StatusCode.PERMISSION_DENIED
    assert ask(known.keys["default", "operator"]) is grpc.StatusCode.OK


def test_an_rpc_that_declares_nothing_is_not_served() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="bare.proto", package="bare", syntax="proto3")
    file.message_type.add(name="Nothing")
    service = file.service.add(name="BareService")
    service.method.add(name="Do", input_type=".bare.Nothing", output_type=".bare.Nothing")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    method = pool.FindServiceByName("bare.BareService").methods_by_name["Do"]
    with pytest.raises(TypeError, match="must declare role, cost and cache"):
        needs_of(method)
