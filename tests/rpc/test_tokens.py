"""Tokens say what they were made to say, to their own tenant and for their own method, and to nobody else."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, invalid_field
from penstock.rpc.tokens import token, values_of

WRONG = invalid_field("page_token", "is not one that this method gave", reason="INVALID_PAGE_TOKEN")
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@given(tenant=NAMES, kind=NAMES, number=st.integers(), text=NAMES)
def test_it_says_what_it_was_made_to_say(tenant: str, kind: str, number: int, text: str) -> None:
    assert values_of(tenant, kind, token(tenant, kind, [number, text]), (int, str), WRONG) == [number, text]


@pytest.mark.parametrize(("tenant", "kind"), [("theirs", "events"), ("ours", "products"), ("", "events")])
def test_it_is_of_one_tenant_and_one_kind(tenant: str, kind: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        values_of(tenant, kind, token("ours", "events", [1]), (int,), WRONG)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


def test_it_does_not_name_its_tenant() -> None:
    made = token("a-telling-name", "events", [1])
    assert b"telling" not in base64.urlsafe_b64decode(made + "=" * (-len(made) % 4))


@pytest.mark.parametrize(
    "text",
    ["", "x", "e30", "bnVsbA", "!!!!", "\ud800", token("ours", "events", ["1"]), token("ours", "events", [1, 2]),
     base64.urlsafe_b64encode(json.dumps(["events", 1]).encode()).decode()],
)  # fmt: skip
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        values_of("ours", "events", text, (int,), WRONG)
