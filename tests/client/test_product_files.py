"""From files to products: mappings, presets, and what is told of bad rows."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock_client
from penstock_client.product_files import (
    BATCH_ROWS,
    LINE_BYTES_MAX,
    PRODUCT_PRESETS,
    ProductSource,
    parse_product_mapping,
    product_mapping,
)


def read(path: Path, *mapping: str, **options: Any) -> list[dict[str, Any]]:
    """The products of a file; no row of it is rejected or left out."""
    batches = list(ProductSource(path, parse_product_mapping(mapping, **options)).batches())
    assert not any(batch.rejected or batch.repeated for batch in batches)
    return [json.loads(line) for batch in batches for line in batch.lines]


def test_columns_are_mapped_kept_or_left_to_the_server(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('sku,titel,Preis,category,Farbe\nA1,"Lamp, red",3.50,"[""A"", ""B""]",rot\n', encoding="utf-8")
    assert read(file, "product_id=sku,name=titel", "price=Preis", "currency='EUR',attributes.farbe=Farbe") == [
        {
            "product_id": "A1", "name": "Lamp, red", "price": "3.50", "currency": "EUR", "category": ["A", "B"],
            "attributes": {"farbe": "rot"},
        }
    ]  # fmt: skip


def test_a_constant_may_hold_commas() -> None:
    mapping = parse_product_mapping(["merchant_name='Lamps, Inc.',brand='x'"])
    assert mapping.each({}) == {"merchant_name": "Lamps, Inc.", "brand": "x"}


def test_a_file_without_a_header(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("7;Lamp;x\n", encoding="utf-8")
    rows = read(file, "product_id=c1,name=c2,fashion.gender=c3", delimiter=";", header=False)
    assert rows == [{"product_id": "7", "name": "Lamp", "fashion.gender": "x"}]


@pytest.mark.parametrize("argument", ["prize=x", "fashion.nothing=x", "name", "name=", "create_time=x"])
def test_a_mapping_that_cannot_be_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=r"no field"):
        parse_product_mapping([argument])


def test_structure_survives_both_of_the_typed_formats(tmp_path: Path) -> None:
    """NaN is how dataframes write that there is none; dates and bytes become text."""
    row = {
        "id": 7, "title": "Lamp", "price": 3.5, "rating": float("nan"), "category_path": ["A", "B"],
        "fashion": {"gender": "women"}, "since": datetime(2026, 1, 2), "raw": b"x", "none": None, "worst": float("inf"),
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    expected = {
        "id": 7, "title": "Lamp", "price": 3.5, "category_path": ["A", "B"], "fashion": {"gender": "women"},
        "since": "2026-01-02 00:00:00", "raw": "x", "worst": "inf",
    }  # fmt: skip
    assert read(tmp_path / "a.parquet") == [expected]
    (tmp_path / "a.ndjson").write_text(
        json.dumps({"id": 7, "category_path": ["A", "B"], "fashion": {"gender": "women"}, "in_stock": False}) + "\n"
    )
    assert read(tmp_path / "a.ndjson") == [
        {"id": "7", "category_path": ["A", "B"], "fashion": {"gender": "women"}, "in_stock": "false"}
    ]


def test_bad_rows_are_named_by_their_lines(tmp_path: Path) -> None:
    """Blank lines and values of several lines move them."""
    file = tmp_path / "a.csv"
    long = "x" * (LINE_BYTES_MAX // 9)
    file.write_text(
        f'id,title,{",".join(f"n{n}" for n in range(10))}\n\n1,"two\nlines"{",x" * 10}\nbad\n'
        f"2,P{',y' * 10}\n3,P{(',' + long) * 10}\n2,again{',y' * 10}\n"
    )
    [batch] = ProductSource(file, product_mapping({})).batches()
    assert [(each.line, each.reason) for each in batch.rejected] == [(5, "MALFORMED_ROW"), (7, "LINE_TOO_LONG")]
    assert (batch.numbers, batch.repeated) == ([3, 6], 1)


def test_a_file_that_the_mapping_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1,2\n")
    for name in sorted(PRODUCT_PRESETS):
        with pytest.raises(ValueError, match="has no column"):
            list(ProductSource(file, PRODUCT_PRESETS[name]).batches())
    with pytest.raises(ValueError, match="has no column c; it has a, b"):
        list(ProductSource(file, product_mapping({"name": "c"})).batches())


@settings(max_examples=30)
@given(ids=st.lists(st.integers(0, 40), max_size=100))
def test_every_product_goes_once_in_the_order_of_the_file(tmp_path: Path, ids: list[int]) -> None:
    rows = [{"id": str(each), "n": str(number)} for number, each in enumerate(ids)]
    first = {row["id"]: row for row in reversed(rows)}
    file = tmp_path / "a.ndjson"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [batch] = ProductSource(file, product_mapping({})).batches()
    assert [json.loads(line) for line in batch.lines] == sorted(first.values(), key=lambda row: int(row["n"]))
    assert batch.repeated == len(ids) - len(first)


def test_the_shipped_orders_make_a_catalogue() -> None:
    path = Path(penstock_client.__file__).parent / "data" / "online_retail.parquet"
    batches = list(ProductSource(path, PRODUCT_PRESETS["online-retail"]).batches())
    assert max(len(batch.lines) for batch in batches) <= BATCH_ROWS
    made = {row["product_id"]: row for batch in batches for row in map(json.loads, batch.lines)}
    heart = made["85123A"]
    assert heart == {
        "product_id": "85123A", "name": "WHITE HANGING HEART T-LIGHT HOLDER", "price": 2.95, "currency": "GBP",
        "in_stock": True,
    }  # fmt: skip
    assert not {"POST", "D", "M", "BANK CHARGES", "AMAZONFEE", "DOT"} & set(made)
    assert all(row["name"].strip() and row["price"] > 0 for row in made.values())
    # Counted from the file by other means: codes of four digits that were sold at a price, under a name.
    assert len(made) == 3_733


def test_clicks_name_models(tmp_path: Path) -> None:
    file = tmp_path / "eshop.csv"
    head = "year;month;day;order;country;session ID;page 1 (main category);page 2 (clothing model);colour;location;"
    rows = [("2", "B1", "3", "40"), ("2", "B1", "3", "40"), ("2", "B1", "14", "44"), ("4", "P9", "1", "12")]
    file.write_text(
        head + "model photography;price;price 2;page\n"
        + "".join(f"2008;4;1;1;29;1;{shelf};{model};{colour};5;1;{price};2;1\n" for shelf, model, colour, price in rows)
        + "broken\n"
    )  # fmt: skip
    [batch] = ProductSource(file, PRODUCT_PRESETS["eshop-clothing"]).batches()
    assert [json.loads(line) for line in batch.lines] == [
        {
            "product_id": "B1", "name": "Skirts B1, blue", "model": "B1", "category_path": ["Clothing", "Skirts"],
            "colour": "blue", "price": "40", "currency": "USD",
        },
        {
            "product_id": "P9", "name": "Sale P9, beige", "model": "P9", "category_path": ["Clothing", "Sale"],
            "colour": "beige", "price": "12", "currency": "USD",
        },
    ]  # fmt: skip
    assert [each.line for each in batch.rejected] == [6]


def test_price_lists_say_their_currency_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id#title#description#manufacturer#price\n0#a#b#c#0.0\n1#a###19.99 gbp\n2#a###5\n")
    [batch] = ProductSource(file, PRODUCT_PRESETS["amazon-google"]).batches()
    rows = [json.loads(line) for line in batch.lines]
    assert [(row.get("price"), row["currency"]) for row in rows] == [(None, "USD"), ("19.99", "GBP"), ("5", "USD")]
