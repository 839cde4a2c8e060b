"""Every promised REST path is in the contract, and is asked for in success, in failure and where it must be refused."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from penstock.access.v1 import access_pb2
from penstock.rest.openapi import document
from tests.rest import test_credentials, test_paths, test_queries, test_sign_in
from tests.rest.path_list import PROMISED, template_of

# What needs something prepared is no row of a table: the test that shows its success.
PREPARED = {
    ("GET", "/v1/operations/{id}"): test_paths.test_an_operation_can_be_followed_to_its_end,
    ("POST", "/query/natural"): test_queries.test_a_question,
    ("POST", "/auth/refresh"): test_credentials.test_signing_in_going_on_and_out,
    ("GET", "/api/v1/auth/login"): test_sign_in.test_from_the_browser_and_back,
    ("GET", "/api/v1/auth/callback"): test_sign_in.test_from_the_browser_and_back,
}
# Those that nobody needs a credential for, by hand: the contract's word for it is what is tried here.
OPEN = {
    *(("GET", path) for path in ("/", "/openapi.json", "/health", "/healthz", "/live", "/ready")),
    *(("POST", path) for path in ("/auth/token", "/auth/refresh")),
    *(("GET", path) for path in ("/api/v1/auth/login", "/api/v1/auth/callback")),
}


def templates_of(rows: Iterable[Sequence[Any]]) -> set[tuple[str, str] | None]:
    return {template_of(row[0], row[1]) for row in rows}


SUCCEEDING = templates_of([*test_paths.SUCCESSES, *test_paths.STREAMS]) | set(PREPARED)
FAILING = templates_of(test_paths.FAILURES)
REFUSED = templates_of(test_credentials.ROWS)


def test_the_list_is_whole() -> None:
    assert (len(PROMISED), len(set(PROMISED))) == (75, 75)


def test_no_other_path_is_open_to_everybody() -> None:
    anonymous = {row for row in PROMISED if test_credentials.role_of(*row) == access_pb2.ROLE_ANONYMOUS}
    assert anonymous == OPEN


@pytest.mark.parametrize(("method", "path"), PROMISED)
def test_a_promised_path(method: str, path: str) -> None:
    assert method.lower() in document("1")["paths"].get(path, {}), "not in the contract"
    assert (method, path) in SUCCEEDING, "a row in SUCCESSES or STREAMS is missing"
    assert (method, path) in FAILING, "a row in FAILURES is missing"
    assert (method, path) in REFUSED, "a row in test_credentials.ROWS is missing"


@pytest.mark.parametrize(("method", "path"), PREPARED)
def test_what_is_prepared_cannot_be_a_row(method: str, path: str) -> None:
    """An entry of PREPARED whose path has a row now, or is gone, hides what the row should show."""
    assert (method, path) in PROMISED
    assert (method, path) not in templates_of([*test_paths.SUCCESSES, *test_paths.STREAMS])
