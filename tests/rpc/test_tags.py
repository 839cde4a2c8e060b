"""Entity tags: of one request, one tenant, one version, and not for ever."""

import pytest

from penstock.access.v1 import access_pb2
from penstock.kpis.v1 import kpis_service_pb2
from penstock.operations.v1 import operations_service_pb2
from penstock.rpc.tags import TAG_S, Tags

KPIS = kpis_service_pb2.DESCRIPTOR.services_by_name["KpiService"].methods_by_name
METRICS = KPIS["GetMetrics"]
INFO = operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"].methods_by_name["GetInfo"]


class World:
    """The version of the data, and the time."""

    version: str | None = "1"
    now = 1_000.0


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def tags(world: World) -> Tags:
    async def learn(tenant: str) -> None:
        world.version = "learnt"

    return Tags("0.1", {access_pb2.CACHEABILITY_UNTIL_GOLD: lambda _: world.version}, learn, clock=lambda: world.now)


def digest(tags: Tags, tenant: str = "a", request: bytes = b"") -> str:
    found = tags.digest(METRICS, tenant, request)
    assert found is not None
    return found


def test_only_what_may_be_kept_and_is_a_get_has_tags(tags: Tags) -> None:
    assert tags.applies(METRICS)
    assert tags.applies(INFO)
    assert not tags.applies(KPIS["QueryKpis"]), "a POST"
    assert not tags.applies(KPIS["WatchMetrics"])
    assert not tags.applies(KPIS["CreateKpi"])


def test_a_tag_is_of_all_that_the_answer_depends_on(tags: Tags, world: World) -> None:
    known = tags.tag(digest(tags))
    assert tags.matches(digest(tags), known)
    assert tags.matches(digest(tags), f'"x", {known}')
    assert not tags.matches(digest(tags, tenant="b"), known)
    assert not tags.matches(digest(tags, request=b"\x0a\x01x"), known)
    world.version = "2"
    assert not tags.matches(digest(tags), known)


def test_what_may_depend_on_the_clock_is_believed_for_a_minute(tags: Tags, world: World) -> None:
    known, lasting = tags.tag(digest(tags)), tags.tag(str(tags.digest(INFO, "a", b"")))
    world.now += TAG_S
    assert tags.matches(digest(tags), known)
    world.now += 1
    assert not tags.matches(digest(tags), known)
    assert tags.matches(str(tags.digest(INFO, "a", b"")), lasting)


@pytest.mark.parametrize("garbage", ["", "*", '"', 'W/"-"', 'W/"x-y-z"', "\x00", "," * 10_000, 'W/"' + "f" * 99_999])
def test_garbage_matches_nothing(tags: Tags, garbage: str) -> None:
    assert not tags.matches(digest(tags), garbage)


async def test_a_version_that_is_not_known_is_learnt(tags: Tags, world: World) -> None:
    world.version = None
    assert tags.digest(METRICS, "a", b"") is None
    await tags.learn("a")
    assert tags.digest(METRICS, "a", b"") is not None
