"""What API keys look like."""

import re

from penstock.accounts.api_keys import minted, parsed


def test_a_key_is_read_as_it_was_minted() -> None:
    parts = minted()
    assert parsed(parts.text) == parts
    assert re.fullmatch(r"pk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", parts.text)
    assert parts != minted()


def test_a_slip_of_the_hand_is_told() -> None:
    text = minted().text
    for place in range(3, len(text)):
        other = "a" if text[place] != "a" else "b"
        assert parsed(text[:place] + other + text[place + 1 :]) is None


def test_what_is_no_key_is_none() -> None:
    text = minted().text
    for wrong in ("", "pk_", text[:-1], text + "a", text.upper(), f" {text}", f"{text}\n", text.replace("pk_", "rt_")):
        assert parsed(wrong) is None


def test_its_secret_is_not_in_its_repr() -> None:
    parts = minted()
    assert parts.secret not in repr(parts)
