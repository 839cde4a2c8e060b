"""Access tokens: what holds, and all the ways of forging one that do not."""

import base64
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey

from penstock.accounts.bounds import ACCESS_S
from penstock.accounts.model import User
from penstock.accounts.sessions import Session
from penstock.accounts.signing import SigningKeys
from penstock.accounts.tokens import AccessTokens
from penstock.errors import Unauthenticated
from penstock.rpc.principal import ROLES
from tests.accounts.conftest import Clock

THEN = datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)
USER = User("acme", "ann", "", frozenset({ROLES["analyst"]}), "", "", False, THEN, THEN, "", THEN)
SESSION = Session("s" * 20, "acme", "ann", THEN, "")


@pytest.fixture
def tokens(keys: SigningKeys, clock: Clock) -> AccessTokens:
    return AccessTokens(keys, "penstock", clock)


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def reason(tokens: AccessTokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as raised:
        tokens.claims_of(token)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert raised.value.message in ("the access token does not hold", "the access token has expired")
    return raised.value.reason


def test_a_token_says_who_it_is(tokens: AccessTokens, keys: SigningKeys, clock: Clock) -> None:
    token, expires = tokens.given(USER, SESSION)
    claims = tokens.claims_of(token)
    assert (claims.tenant, claims.user, claims.session, claims.expires) == ("acme", "ann", SESSION.id, expires)
    assert claims.started == THEN.timestamp()
    header, payload, _ = token.split(".")
    assert decoded(header) == {"alg": "Ed25519", "typ": "at+jwt", "kid": keys.signing.kid}
    said = decoded(payload)
    assert said["exp"] - said["iat"] == ACCESS_S
    assert (said["iss"], said["aud"], said["roles"]) == ("penstock", "penstock", ["analyst"])
    assert len(token) < 700


def test_it_holds_for_half_an_hour_and_a_little(tokens: AccessTokens, clock: Clock) -> None:
    token, _ = tokens.given(USER, SESSION)
    clock.ahead = ACCESS_S + 25
    assert tokens.claims_of(token)
    clock.ahead = ACCESS_S + 31
    assert reason(tokens, token) == "TOKEN_EXPIRED"


def test_an_expired_token_that_is_forged_is_no_expired_token(tokens: AccessTokens, clock: Clock) -> None:
    token, _ = tokens.given(USER, SESSION)
    clock.ahead = 2 * ACCESS_S
    assert reason(tokens, token[:-4] + "AAAA") == "TOKEN_INVALID"


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "HS512", "EdDSA", "Ed448", "RS256", "ES256", "", None, 1])
def test_the_algorithm_is_not_the_tokens_to_choose(tokens: AccessTokens, keys: SigningKeys, alg: object) -> None:
    payload = tokens.given(USER, SESSION)[0].split(".")[1]
    body = f"{encoded({'alg': alg, 'typ': 'at+jwt', 'kid': keys.signing.kid})}.{payload}"
    public = keys.jwks()["keys"][0]
    x = base64.urlsafe_b64decode(str(public["x"]) + "=")
    signatures = [b"", b"\0" * 64, keys.signing.private_key.sign(body.encode())]  # type: ignore[union-attr]
    for secret in (x, str(public["x"]).encode(), json.dumps(public).encode(), b""):
        signatures += [hmac.digest(secret, body.encode(), kind) for kind in ("sha256", "sha512")]
    for signature in signatures:
        token = f"{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        assert reason(tokens, token) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "change",
    [{"sub": "root"}, {"tenant": "other"}, {"roles": ["admin"]}, {"exp": 9_999_999_999}, {"sid": "t" * 20}, {"x": 1}],
)
def test_altered_payloads(tokens: AccessTokens, change: dict[str, object]) -> None:
    header, payload, signature = tokens.given(USER, SESSION)[0].split(".")
    assert reason(tokens, f"{header}.{encoded({**decoded(payload), **change})}.{signature}") == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "JWT"},
        {"kid": "unknown"},
        {"kid": None},
        {"kid": ["a"]},
        {"jwk": {}},
        {"jku": "https://x"},
        {"b64": False},
    ],
)
def test_altered_headers(tokens: AccessTokens, change: dict[str, object]) -> None:
    header, payload, signature = tokens.given(USER, SESSION)[0].split(".")
    assert reason(tokens, f"{encoded({**decoded(header), **change})}.{payload}.{signature}") == "TOKEN_INVALID"


def signed(keys: SigningKeys, header: dict[str, Any], **changes: object) -> str:
    """A token by the right key that says something else."""
    good = AccessTokens(keys, "penstock").given(USER, SESSION)[0]
    claims = {**decoded(good.split(".")[1]), **changes}
    claims = {name: value for name, value in claims.items() if value is not ...}
    return jwt.encode(
        {"alg": "Ed25519", "typ": "at+jwt", "kid": keys.signing.kid, **header},
        claims, keys.signing, algorithms=["Ed25519"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "other"}, {"aud": ["other"]}, {"aud": ...}, {"iss": "other"}, {"iss": ...}, {"sub": ...}, {"sub": 5},
        {"sub": ""}, {"exp": ...}, {"exp": "never"}, {"exp": True}, {"sid": ...}, {"sid": 1}, {"tenant": ...},
        {"tenant": ""}, {"jti": ...}, {"iat": ...}, {"iat": 9_999_999_999}, {"auth_time": ...}, {"auth_time": "x"},
        {"nbf": 9_999_999_999},
    ],
)  # fmt: skip
def test_claims_that_the_right_key_signed_for_something_else(
    tokens: AccessTokens, keys: SigningKeys, change: dict[str, object]
) -> None:
    assert tokens.claims_of(signed(keys, {}))
    assert reason(tokens, signed(keys, {}, **change)) == "TOKEN_INVALID"


def test_another_kind_of_jwt_by_the_right_key(tokens: AccessTokens, keys: SigningKeys) -> None:
    for header in ({"typ": "JWT"}, {"typ": "at+JWT"}, {"typ": ""}):
        assert reason(tokens, signed(keys, header)) == "TOKEN_INVALID"


def test_a_key_of_ones_own_with_the_right_id(tokens: AccessTokens, keys: SigningKeys) -> None:
    own = OKPKey.generate_key("Ed25519", {"kid": str(keys.signing.kid)})
    payload = decoded(tokens.given(USER, SESSION)[0].split(".")[1])
    header = {"alg": "Ed25519", "typ": "at+jwt", "kid": keys.signing.kid}
    assert reason(tokens, jwt.encode(header, payload, own, algorithms=["Ed25519"])) == "TOKEN_INVALID"
    with_jwk = {**header, "jwk": own.as_dict(private=False)}
    assert reason(tokens, jwt.encode(with_jwk, payload, own, algorithms=["Ed25519"])) == "TOKEN_INVALID"


def test_after_a_rotation_old_tokens_hold_and_new_ones_have_the_new_key(
    tokens: AccessTokens, keys: SigningKeys
) -> None:
    old, _ = tokens.given(USER, SESSION)
    kid = keys.rotate()
    new, _ = tokens.given(USER, SESSION)
    assert decoded(new.split(".")[0])["kid"] == kid != decoded(old.split(".")[0])["kid"]
    assert tokens.claims_of(old).user == tokens.claims_of(new).user == "ann"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b.c.d.e",
        "é.é.é",
        "\udc00.a.b",
        "x" * 5_000,
        "e30.e30.",
        "[]",
        "null.null.null",
    ],
)
def test_what_is_no_token(tokens: AccessTokens, text: str) -> None:
    assert reason(tokens, text) == "TOKEN_INVALID"


def test_deep_headers_do_no_harm(tokens: AccessTokens) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 2_000).decode().rstrip("=")
    assert reason(tokens, f"{deep}.e30.e30") == "TOKEN_INVALID"
