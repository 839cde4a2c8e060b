"""What one tenant has, another does not find: by any rpc, however it asks.

A tenant stores a secret wherever something can be stored, under names that another tenant knows, and finds it again by
every rpc that shows such things, so that the test could fail. Then the other one asks by every rpc for nothing in
particular, and for those names, ids and tokens.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf import json_format, symbol_database
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from penstock import SyncClient, event, product
from penstock.access.v1 import access_pb2
from penstock.events.v1 import events_service_pb2 as events
from penstock.events.v1 import events_service_pb2_grpc as events_stubs
from penstock.queries.views import VIEWS
from penstock.rpc.needs import needs_of
from tests.accounts.calling import called
from tests.accounts.people import people
from tests.contract.test_contract import METHODS, by_name
from tests.process import ServerProcess
from tests.waiting import until

OWNER, STRANGER = "owner", "stranger"
NEWCOMER = "newcomer"  # who asks for nothing in particular, so that nothing of its own is found either
NAME = "known_to_all"  # that things of the owner are called, and the stranger knows it
TAIL_S_MAX = 30.0
SECRET = "xylotheque"  # what is in them
SECONDS = 0.5  # of a call that lasts as long as its client likes
FOUND_BY_OWNER = {
    *("ListEvents", "ListRejectedEvents", "ListRecentSessions", "ListData", "GetProduct", "ListProducts", "Search"),
    *("BatchSearch", "SearchSimilar", "GetUserProfile", "ListKpis", "GetKpi", "RunSql", "StreamSql", "Recommend"),
    *("ListExperiments", "ListApiKeys", "ListUsers"),
}
# What the stranger would do to itself by asking, or what nobody could ask a second time.
NOT_ASKED = {"SignOut", "CreateToken", "RefreshToken"}
# By each of them something is asked for that is not there.
REFUSING = {"GetOperation", "GetProduct", "GetKpi", "RevokeApiKey", "UpdateUser", "ListEvents", "TailEvents"}

OF_THE_MOMENT = re.compile("(?i)version|commit|time|seconds|ms$|lag|memory|hitRate|entries|detail|indexBytes|recall")


def _is_get(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().Extensions[annotations_pb2.http].get) and not method.server_streaming


# Of what the newcomer itself has asked these tell, so they move.
OF_THEIR_CALLS = {"GetCacheStats", "GetPerformance", "ListSlowQueries"}
GETS = [each for each in METHODS if _is_get(each) and each.name not in OF_THEIR_CALLS]


@dataclass(slots=True)
class Tenants:
    """A server with two tenants, of which one has something."""

    server: ServerProcess
    keys: dict[str, str]
    names: dict[str, list[Any]]
    before: dict[str, list[object]] = field(default_factory=dict)  # what the newcomer was told before the owner came

    def figures(self, method: MethodDescriptor) -> list[object]:
        """What the newcomer is told now, for nothing in particular and for what the owner's things are called."""
        known = {**self.names, "id": [], "page_token": [], "resume_token": []}
        requests = [_request(method.input_type, names, 0) for names in ({}, known)]
        answer = symbol_database.Default().GetSymbol(method.output_type.full_name)
        told: list[object] = []
        with grpc.insecure_channel(self.server.target) as channel:
            for request in requests:
                try:
                    body = called(channel, method, request.SerializeToString(), self.keys[NEWCOMER], SECONDS)
                    told.append(_lasting(json_format.MessageToDict(answer.FromString(body))))
                except grpc.RpcError as error:
                    told.append((str(error.code()), re.sub(r"[0-9][0-9:.]*", "N", error.details() or "")))
        return told

    def lines(self, tenant: str, method: MethodDescriptor | None = None) -> list[str]:
        """What the log has of calls with the tenant's key, of one method or of all."""
        caller, name = f"key:{tenant}/{self.keys[tenant].split('_')[1]}", f"/{method.name} " if method else ""
        return [line for line in self.server.log.splitlines() if caller in line and name in f"{line} "]

    def answers(self, tenant: str, method: MethodDescriptor, requests: Sequence[Message]) -> bytes:
        """All that a tenant is told for these requests, errors too."""
        told = b""
        with grpc.insecure_channel(self.server.target) as channel:
            for request in requests:
                told += _told(channel, method, request, self.keys[tenant])
        return told


def _told(channel: grpc.Channel, method: MethodDescriptor, request: Message, key: str) -> bytes:
    told = b""
    try:
        answer = called(channel, method, request.SerializeToString(), key, SECONDS)
        for each in answer if method.server_streaming else (answer,):
            told += each
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        told += (error.details() or "").encode() + bytes(trailing.get("grpc-status-details-bin", b""))
    return told


def _lasting(value: object) -> object:
    """An answer without what changes by itself: numbers of versions, and times."""
    if isinstance(value, dict):
        return {name: _lasting(each) for name, each in value.items() if not OF_THE_MOMENT.search(name)}
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    return value


def _request(message: Descriptor, names: dict[str, list[Any]], turn: int) -> Message:
    """A request that asks for the owner's things, by what its fields are called; each turn for others of them."""
    made: Message = symbol_database.Default().GetSymbol(message.full_name)()
    for each in message.fields:
        if each.message_type is not None and each.message_type.full_name.startswith("penstock."):
            inner = _request(each.message_type, names, turn)
            if inner.ByteSize():
                (getattr(made, each.name).add() if each.is_repeated else getattr(made, each.name)).CopyFrom(inner)
        elif each.type == FieldDescriptor.TYPE_STRING and names.get(each.name) and each.message_type is None:
            value = names[each.name][turn % len(names[each.name])]
            getattr(made, each.name).append(value) if each.is_repeated else setattr(made, each.name, value)
    return made


def settle_in(client: SyncClient, names: dict[str, list[Any]]) -> None:
    """Stores the secret wherever something can be stored."""
    with client.events.writer(NAME, row_policy="keep_good") as writer:
        for number in range(60):
            writer.send(
                event(
                    "purchase" if number % 2 else "page_view",
                    **dict.fromkeys(("user_id", "visitor_id", "session_id", "site_id", "product_id"), NAME),
                    url=f"https://shop.example/{SECRET}/{number}",
                    referrer=f"https://{SECRET}.example",
                    price=1.0,
                    quantity=1,
                    order_id=f"{SECRET}-{number}",
                    properties={"note": SECRET},
                )
            )
        writer.send(event("page_view", user_id=NAME, url=f"https://{SECRET}", price=float("nan")))
    client.catalog.upsert([product(f"{SECRET}-{n}", f"{SECRET} {n}", price=n + 1.0, brand=NAME) for n in range(30)])
    client.catalog.upsert(product(NAME, f"a {SECRET}", price=3, category_path=f"{NAME}/{SECRET}", brand=NAME))
    for each in (NAME, *(f"{SECRET}-{n}" for n in range(5))):
        client.feedback.send(NAME, each, "click")
    client.pipeline.run()
    names["id"].append(client.pipeline.start().message.name.removeprefix("operations/"))
    names["id"].append(client.search.rebuild().message.name.removeprefix("operations/"))
    client.kpis.create(NAME, "count", "count(event_type = 'page_view')", label=SECRET)
    client.recommendations.create_experiment(NAME, {"control": 1.0, SECRET: 1.0})
    client.accounts.create_user(f"user-{SECRET}", "a long enough password", ["viewer"])
    names["id"].append(client.accounts.create_key(SECRET, ["viewer"]).api_key.id)


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    folder = tmp_path_factory.mktemp("tenants")
    known = people(folder, (OWNER, STRANGER, NEWCOMER))
    keys = {tenant: known.keys[tenant, "admin"] for tenant in (OWNER, STRANGER, NEWCOMER)}
    by_name = (
        "user_id",
        "visitor_id",
        "session_id",
        "site_id",
        "product_id",
        "stream_id",
        "request_id",
        "username",
        "brands",
    )
    names: dict[str, list[Any]] = {
        **{each: [NAME] for each in by_name},
        "name": [NAME, f"user-{SECRET[:3]}"],
        "metric": [NAME, "gmv"],
        "query": ["wood", NAME],
        "context": [],
        "table": ["bronze", "silver", "gold", "sessions"],
        "sql": [f"SELECT * FROM {view}" for view in VIEWS],
        "question": ["what?"],
        "id": [],
        "page_token": [],
        "resume_token": [],
    }
    with ServerProcess(folder, env={"PENSTOCK_AUTH": "required", "PENSTOCK_PIPELINE_INTERVAL_S": "0.1"}) as server:
        made = Tenants(server, keys, names)
        with SyncClient(server.target, api_key=keys[STRANGER]) as client:  # there are versions of everything
            with client.events.writer("first") as writer:
                writer.send(event("page_view", user_id="somebody"))
            client.pipeline.run()
        made.before = {method.full_name: made.figures(method) for method in GETS}
        with SyncClient(server.target, api_key=keys[OWNER]) as client:
            settle_in(client, names)
        _collect_tokens(made)
        yield made


def _collect_tokens(tenants: Tenants) -> None:
    """Page and resume tokens of the owner, which the stranger may have come by."""
    with grpc.insecure_channel(tenants.server.target) as channel:
        for method in METHODS:
            fields = method.input_type.fields_by_name
            if "page_token" not in fields or method.server_streaming:
                continue
            request = _request(method.input_type, {**tenants.names, "page_token": []}, 0)
            if "page_size" in fields:
                setattr(request, "page_size", 1)  # noqa: B010  # a field that not all of them have
            if "limit" in fields:
                setattr(request, "limit", 1)  # noqa: B010
            body = _told(channel, method, request, tenants.keys[OWNER])
            answer = symbol_database.Default().GetSymbol(method.output_type.full_name)
            try:
                token = getattr(answer.FromString(body), "next_page_token", "")
            except Exception:  # an error has no token
                continue
            if token:
                tenants.names["page_token"].append(token)
        tail = events_stubs.EventServiceStub(channel).TailEvents(
            events.TailEventsRequest(), metadata=(("x-api-key", tenants.keys[OWNER]),), timeout=TAIL_S_MAX
        )
        tenants.names["resume_token"].append(next(tail).resume_token)
        tail.cancel()


def asked(tenants: Tenants, method: MethodDescriptor) -> list[Message]:
    """Requests for the owner's things: by each of the names, and with each of the tokens."""
    turns = max(len(values) for values in tenants.names.values())
    found: dict[bytes, Message] = {}
    for turn, with_tokens in itertools.product(range(turns), (False, True)):
        names = tenants.names if with_tokens else {**tenants.names, "page_token": [], "resume_token": []}
        request = _request(method.input_type, names, turn)
        found[request.SerializeToString(deterministic=True)] = request
    return list(found.values())


@pytest.mark.parametrize("method", [each for each in METHODS if each.name not in NOT_ASKED], ids=by_name)
def test_a_stranger_finds_nothing(tenants: Tenants, method: MethodDescriptor) -> None:
    nothing: Message = symbol_database.Default().GetSymbol(method.input_type.full_name)()
    told = tenants.answers(NEWCOMER, method, [nothing])
    assert SECRET.encode() not in told
    assert NAME.encode() not in told, "it names what it was not asked for"
    assert SECRET.encode() not in tenants.answers(STRANGER, method, asked(tenants, method))


@pytest.mark.parametrize("method", GETS, ids=by_name)
def test_a_newcomers_figures_are_what_they_were(tenants: Tenants, method: MethodDescriptor) -> None:
    """Counts, sums and series have no secret in them; these do not move when another tenant settles in."""
    assert tenants.figures(method) == tenants.before[method.full_name]


@pytest.mark.parametrize("method", [each for each in METHODS if each.name in FOUND_BY_OWNER], ids=by_name)
def test_the_owner_finds_it_still(tenants: Tenants, method: MethodDescriptor) -> None:
    """The last: so the rpcs above could have shown it, and the stranger has changed and removed nothing."""
    nothing: Message = symbol_database.Default().GetSymbol(method.input_type.full_name)()
    assert SECRET.encode() in tenants.answers(OWNER, method, [nothing, *asked(tenants, method)])


@pytest.mark.parametrize("method", [each for each in METHODS if each.name not in NOT_ASKED], ids=by_name)
async def test_every_attempt_leaves_a_line(tenants: Tenants, method: MethodDescriptor) -> None:
    """Each one: by every name, id and token, filter, statement and stream, whether it is refused or finds nothing.

    What anybody may ask without a credential tells nothing of a tenant.
    """
    if needs_of(method).role == access_pb2.ROLE_ANONYMOUS:
        return
    requests = asked(tenants, method)
    tenants.answers(STRANGER, method, requests)
    await until(lambda: len(tenants.lines(STRANGER, method)) >= len(requests))


def test_a_refused_attempt_says_what_for(tenants: Tenants) -> None:
    """By its reason; and no line has a secret, or a key."""
    for method in METHODS:
        if method.name in REFUSING:
            tenants.answers(STRANGER, method, asked(tenants, method))
    lines = tenants.lines(STRANGER)
    for reason in (
        "OPERATION_NOT_FOUND",
        "PRODUCT_NOT_FOUND",
        "KPI_NOT_FOUND",
        "API_KEY_NOT_FOUND",
        "USER_NOT_FOUND",
        "INVALID_PAGE_TOKEN",
        "INVALID_RESUME_TOKEN",
    ):
        assert any("call refused" in line and reason in line for line in lines), reason
    assert SECRET not in "".join(lines)
    assert not any(key in tenants.server.log for key in tenants.keys.values())
