"""Storage refuses for a while: that is said, nothing of it is there afterwards, and then things go on by themselves."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.feedback.v1.feedback_pb2 import CLICK, Interaction
from tests.faults.shop.altered import AlteredServer
from tests.search.shop import Shop, connected, products

pytestmark = [pytest.mark.slow, pytest.mark.faults]

COUNT = 10
USER = "patient"


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says which failpoint is on."""
    return tmp_path_factory.mktemp("switch") / "failpoint"


@pytest.fixture(scope="module")
def shop(switch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A server that waits for storage only half a second."""
    switch.write_text("")
    folder = tmp_path_factory.mktemp("data")
    with (
        AlteredServer("impatient", folder, env={"PENSTOCK_FAILPOINT_FILE": str(switch)}) as server,
        connected(server) as made,
    ):
        made.fill(products(COUNT))
        yield made


def upsert(shop: Shop, name: str) -> int:
    """Renames a product; the commit."""
    changed = products(COUNT)[3]
    changed.name = name
    return int(shop.catalog.UpsertProducts(catalog.UpsertProductsRequest(products=[changed])).commit)


def click(shop: Shop, request_id: str) -> str:
    """Sends a click; what became of it."""
    sent = Interaction(user_id=USER, product_id="p0003", interaction_type=CLICK, request_id=request_id)
    return str(shop.feedback.SendFeedback(feedback.SendFeedbackRequest(interaction=sent)).status)


def assert_away(error: grpc.RpcError) -> None:
    """UNAVAILABLE, with when to come again."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert all(detail.Unpack(info) or detail.Unpack(retry) for detail in status.details)
    assert (error.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0


@pytest.mark.parametrize("place", ["before_insert", "before_log"])
def test_products(shop: Shop, switch: Path, place: str) -> None:
    before = shop.catalog.GetProduct(catalog.GetProductRequest(product_id="p0003"))
    switch.write_text(f"catalogue.{place}!")
    with pytest.raises(grpc.RpcError) as caught:
        upsert(shop, f"Straw hat, refused {place}")
    assert_away(caught.value)
    with pytest.raises(grpc.RpcError) as caught:
        shop.catalog.DeleteProduct(catalog.DeleteProductRequest(product_id="p0003"))
    assert_away(caught.value)
    assert shop.catalog.GetProduct(catalog.GetProductRequest(product_id="p0003")) == before
    switch.write_text("")
    upsert(shop, f"Straw hat, stored after {place}")
    listed = shop.catalog.ListProducts(catalog.ListProductsRequest())
    assert listed.total == COUNT
    assert [each.name for each in listed.products if each.product_id == "p0003"] == [f"Straw hat, stored after {place}"]
    older = shop.catalog.ListProducts(catalog.ListProductsRequest(as_of_version=before.commit))
    assert [each for each in older.products if each.product_id == "p0003"] == [before.product]


@pytest.mark.parametrize("place", ["before_insert", "before_log"])
def test_feedback(shop: Shop, switch: Path, place: str) -> None:
    profile = feedback.GetUserProfileRequest(user_id=USER)
    before = shop.feedback.GetUserProfile(profile).interactions
    switch.write_text(f"feedback.{place}!")
    with pytest.raises(grpc.RpcError) as caught:
        click(shop, place)
    assert_away(caught.value)
    assert shop.feedback.GetUserProfile(profile).interactions == before
    switch.write_text("")
    assert [click(shop, place), click(shop, place)] == ["stored", "duplicate"]
    assert shop.feedback.GetUserProfile(profile).interactions == before + 1
