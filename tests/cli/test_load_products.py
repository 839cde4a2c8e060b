"""`penstock load-products` against a running server."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import penstock
from penstock.cli import app
from tests.process import ServerProcess


def load(*arguments: str, exit_code: int = 0) -> Result:
    """What the command made of it."""
    result = CliRunner().invoke(app, ["load-products", *arguments])
    assert result.exit_code == exit_code, result.output
    return result


def test_the_products_of_the_shipped_orders_are_loaded_once(server: ServerProcess) -> None:
    arguments = ("--preset", "online-retail", "--address", server.target)
    assert "3,733 products created, 0 updated, 0 unchanged, 0 rejected" in load(*arguments).output
    assert "0 products created, 0 updated, 3,733 unchanged, 0 rejected" in load(*arguments).output
    with penstock.SyncClient(server.target) as client:
        heart = client.catalog.get("85123A")
        assert (heart.name, heart.price, heart.currency) == ("WHITE HANGING HEART T-LIGHT HOLDER", 2.95, "GBP")
        assert heart.in_stock
        assert not client.catalog.get("10002").in_stock


def test_a_file_is_mapped_and_its_bad_rows_are_told(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "lamps.csv"
    good = "".join(f"m{n};Lamp {n};{n}\n" for n in range(10))
    bad = "".join(f"m{n};Lamp {n};dear\n" for n in range(10, 35))
    file.write_text(f"sku;titel;cost\n{good}{bad}m0;again;1\nm35;;1\nm36\n", encoding="utf-8")
    arguments = (
        str(file), "--delimiter", ";", "--map", "product_id=sku,name=titel", "--map", "price=cost,brand='Lamps, Inc.'",
        "--address", server.target,
    )  # fmt: skip
    told = load(*arguments, exit_code=1).output
    assert "10 products created, 0 updated, 0 unchanged, 27 rejected" in told
    assert "1 rows left out: one before them has the same id" in told
    assert "line 12: INVALID_FIELD: price: must be a number" in told
    assert "line 31: INVALID_FIELD" in told
    assert "line 32" not in told
    assert "and 7 more" in told
    with penstock.SyncClient(server.target) as client:
        assert [each.product_id for each in client.catalog.list(brand="Lamps, Inc.")] == [f"m{n}" for n in range(10)]
    file.write_text(f"sku;titel;cost\n{good.replace(';3', ';99')}", encoding="utf-8")
    assert "0 products created, 1 updated, 9 unchanged, 0 rejected" in load(*arguments).output


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_feeds_need_no_mapping(server: ServerProcess, tmp_path: Path, suffix: str, pack: object) -> None:
    file = tmp_path / f"feed.ndjson{suffix}"
    rows = [
        {"id": f"feed{suffix} {n}", "title": f"Lamp {n}", "category": "Home > Lighting", "color": "red", "watts": n}
        for n in range(3)
    ]
    assert callable(pack)
    file.write_bytes(pack("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert "3 products created" in load(str(file), "--address", server.target).output
    with penstock.SyncClient(server.target) as client:
        made = client.catalog.get(f"feed{suffix} 2")
        assert (made.name, list(made.category_path), made.colour) == ("Lamp 2", ["Home", "Lighting"], "red")
        assert dict(made.attributes) == {"watts": "2"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give a FILE"),
        (("--preset", "retrotech"), "give a FILE"),
        (("{file}", "--preset", "nonsense"), "nonsense is no preset"),
        (("{file}", "--map", "prize=a"), "prize is no field of a product"),
        (("{file}", "--preset", "retrotech", "--map", "name=a"), "not both"),
    ],
)
def test_what_cannot_be_meant_is_explained(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n1\n")
    shown = load(*(each.format(file=file) for each in arguments), exit_code=2).stderr
    assert told in " ".join(shown.replace("│", " ").split())


def test_a_mapping_that_does_not_fit_the_file_is_explained(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n1\n")
    told = load(str(file), "--map", "name=missing", "--address", server.target, exit_code=1).stderr
    assert "a.csv has no column missing; it has a" in told
