"""An OpenID provider that errs or lies: no ID token that does not hold lets anybody in, and no answer does harm."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from penstock.accounts.bounds import PROVIDER_BYTES_MAX, PROVIDER_KEYS_AGAIN_S
from penstock.accounts.oidc import OpenIdConnect
from penstock.accounts.provider import Provider
from penstock.accounts.signing import SigningKeys
from penstock.errors import Unauthenticated, Unavailable
from penstock.rpc.principal import ROLES
from tests.accounts.conftest import Clock

ISSUER = "https://id.example.com"
CLIENT, SECRET = "penstock", "a client secret of enough letters"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "one"})
CURVE = ECKey.generate_key("P-256", {"kid": "curve"})


def answer(text: str = "", status: int = 200, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, stream=httpx.ByteStream(text.encode()))


class Fake(httpx.AsyncBaseTransport):
    """Answers whatever a test wants it to."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize?tenant=1",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
        }
        self.keys: dict[str, Any] = dict(KeySet([KEY, CURVE]).as_dict(private=False))
        self.id_token: object = ""
        self.answers: dict[str, httpx.Response] = {}
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.asked.append(request)
        path = request.url.path
        token = {"id_token": self.id_token, "access_token": "x"}
        return self.answers.get(path) or answer(
            json.dumps({"/keys": self.keys, "/token": token}.get(path, self.metadata))
        )


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
async def oidc(fake: Fake, keys: SigningKeys, clock: Clock) -> AsyncIterator[OpenIdConnect]:
    made = OpenIdConnect(
        ISSUER, CLIENT, SECRET, "https://penstock.example.com/back", allowed_domains=["example.com"], tenant="acme",
        roles=[ROLES["viewer"]], sealing_key=keys.sealing("sign-in"), transport=fake, clock=clock,
    )  # fmt: skip
    yield made
    await made.close()


def said(nonce: str, clock: Clock, /, **changes: object) -> dict[str, Any]:
    now = int(clock())
    claims = {
        "iss": ISSUER, "aud": CLIENT, "sub": "ann", "iat": now, "exp": now + 300, "nonce": nonce,
        "email": "ann@example.com", "email_verified": True, **changes,
    }  # fmt: skip
    return {name: value for name, value in claims.items() if value is not ...}


async def begun(oidc: OpenIdConnect) -> tuple[str, str, str]:
    """State, nonce and cookie."""
    url, cookie = await oidc.begin()
    asked = parse_qs(urlsplit(url).query)
    assert asked["tenant"] == ["1"]
    return asked["state"][0], asked["nonce"][0], cookie


async def test_what_holds(oidc: OpenIdConnect, fake: Fake, clock: Clock) -> None:
    for key, alg in ((KEY, "RS256"), (KEY, "PS256"), (CURVE, "ES256")):
        state, nonce, cookie = await begun(oidc)
        fake.id_token = jwt.encode({"alg": alg, "kid": key.kid}, said(nonce, clock), key, algorithms=[alg])
        assert (await oidc.finish("code", state, cookie)).email == "ann@example.com"
    asked = next(request for request in fake.asked if request.url.path == "/token")
    assert (
        base64.b64decode(asked.headers["authorization"].split()[1]).decode() == f"{CLIENT}:{SECRET.replace(' ', '+')}"
    )
    assert SECRET.encode() not in asked.content
    assert sum(request.url.path == "/keys" for request in fake.asked) == 1


async def test_a_secret_goes_into_the_body_where_the_provider_wants_it_there(
    oidc: OpenIdConnect, fake: Fake, clock: Clock
) -> None:
    fake.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post", "private_key_jwt"]
    state, nonce, cookie = await begun(oidc)
    fake.id_token = jwt.encode({"alg": "RS256", "kid": "one"}, said(nonce, clock), KEY, algorithms=["RS256"])
    await oidc.finish("code", state, cookie)
    asked = next(request for request in fake.asked if request.url.path == "/token")
    assert parse_qs(asked.content.decode())["client_secret"] == [SECRET]
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example.com"}, {"iss": ...}, {"aud": "another"}, {"aud": ...}, {"aud": []},
        {"aud": [CLIENT, "another"]}, {"azp": "another"}, {"exp": 1}, {"exp": ...}, {"exp": "never"}, {"iat": ...},
        {"iat": 9_999_999_999}, {"nonce": "another"}, {"nonce": ...}, {"nonce": ""}, {"nonce": 1}, {"sub": ...},
        {"sub": ""}, {"sub": 5}, {"sub": "s" * 256}, {"nbf": 9_999_999_999},
    ],
)  # fmt: skip
async def test_claims_that_are_wrong(oidc: OpenIdConnect, fake: Fake, clock: Clock, change: dict[str, object]) -> None:
    state, nonce, cookie = await begun(oidc)
    claims = said(nonce, clock, **change)
    fake.id_token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, KEY, algorithms=["RS256"])
    with pytest.raises(Unauthenticated) as raised:
        await oidc.finish("code", state, cookie)
    assert raised.value.reason == "SIGN_IN_REFUSED"


@pytest.mark.parametrize(
    "forgery",
    ["none", "secret", "public key", "another key", "own key", "unknown kid", "no kid", "text", "list", "long"],
)
async def test_forgeries(oidc: OpenIdConnect, fake: Fake, clock: Clock, forgery: str) -> None:
    state, nonce, cookie = await begun(oidc)
    claims = said(nonce, clock)
    pem = KEY.as_pem(private=False)
    header: dict[str, Any] = {"alg": "RS256", "kid": "one"}

    def body(alg: str) -> str:
        parts = ({"alg": alg, "kid": "one"}, claims)
        return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)

    def by_secret(secret: bytes) -> str:
        return jwt.encode({"alg": "HS256", "kid": "one"}, claims, OctKey.import_key(secret), algorithms=["HS256"])

    fake.keys["keys"].append({"kty": "oct", "kid": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"})
    fake.id_token = {
        "none": lambda: body("none") + ".",
        "secret": lambda: by_secret(SECRET.encode()),
        "public key": lambda: body("HS256") + "." + base64.urlsafe_b64encode(pem[:32]).decode().rstrip("="),
        "another key": lambda: jwt.encode(header, claims, OTHER, algorithms=["RS256"]),
        "own key": lambda: jwt.encode(
            {**header, "jwk": OTHER.as_dict(private=False)}, claims, OTHER, algorithms=["RS256"]
        ),
        "unknown kid": lambda: jwt.encode({**header, "kid": "two"}, claims, KEY, algorithms=["RS256"]),
        "no kid": lambda: jwt.encode({"alg": "RS256"}, claims, KEY, algorithms=["RS256"]),
        "text": lambda: "x",
        "list": lambda: ["x"],
        "long": lambda: "x." * PROVIDER_BYTES_MAX,
    }[forgery]()
    if forgery == "long":
        fake.answers["/token"] = answer('{"id_token": "' + "x" * PROVIDER_BYTES_MAX + '"}')
    with pytest.raises(Unavailable if forgery == "long" else Unauthenticated) as raised:
        await oidc.finish("code", state, cookie)
    assert raised.value.reason == ("SIGN_IN_UNAVAILABLE" if forgery == "long" else "SIGN_IN_REFUSED")


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example.com"}, {"issuer": ISSUER + "/"}, {"issuer": None},
        {"token_endpoint": "http://id.example.com/token"}, {"token_endpoint": "http://localhost/token"},
        {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": None}, {"authorization_endpoint": "javascript:alert(1)"},
    ],
)  # fmt: skip
async def test_discovery_documents_that_are_wrong(oidc: OpenIdConnect, fake: Fake, change: dict[str, object]) -> None:
    fake.metadata.update(change)
    with pytest.raises(Unavailable) as raised:
        await oidc.begin()
    assert raised.value.reason == "SIGN_IN_UNAVAILABLE"


@pytest.mark.parametrize(
    "given",
    [
        answer(status=302, location="http://169.254.169.254/"),
        answer(status=404),
        answer(status=503),
        answer("<html>"),
        answer("[]"),
        answer("[" * 100_000),
        answer(" " * (PROVIDER_BYTES_MAX + 1)),
        answer("x", content_encoding="br"),
    ],
)
async def test_answers_that_are_none(oidc: OpenIdConnect, fake: Fake, given: httpx.Response) -> None:
    fake.answers["/.well-known/openid-configuration"] = given
    with pytest.raises(Unavailable):
        await oidc.begin()
    assert len(fake.asked) == 1
    assert fake.asked[0].headers["accept-encoding"] == "identity"


async def test_a_code_that_the_provider_refuses_is_not_in_what_is_told(oidc: OpenIdConnect, fake: Fake) -> None:
    state, _, cookie = await begun(oidc)
    fake.answers["/token"] = answer('{"error": "invalid_grant", "error_description": "code 4711"}', 400)
    with pytest.raises(Unauthenticated) as raised:
        await oidc.finish("4711", state, cookie)
    assert raised.value.reason == "SIGN_IN_REFUSED"
    assert "4711" not in str(raised.value)


async def test_a_provider_that_says_who_it_is_has_to(oidc: OpenIdConnect, fake: Fake, clock: Clock) -> None:
    fake.metadata["authorization_response_iss_parameter_supported"] = True
    state, nonce, cookie = await begun(oidc)
    fake.id_token = jwt.encode({"alg": "RS256", "kid": "one"}, said(nonce, clock), KEY, algorithms=["RS256"])
    with pytest.raises(Unauthenticated):
        await oidc.finish("code", state, cookie)
    state, nonce, cookie = await begun(oidc)
    fake.id_token = jwt.encode({"alg": "RS256", "kid": "one"}, said(nonce, clock), KEY, algorithms=["RS256"])
    assert await oidc.finish("code", state, cookie, iss=ISSUER)


async def test_keys_are_read_again_when_one_is_new_but_not_at_every_guess(fake: Fake) -> None:
    now = 1_000.0
    provider = Provider(ISSUER, transport=fake, clock=lambda: now)
    assert await provider.key("one") is not None
    fake.keys = dict(KeySet([RSAKey.import_key(KEY.as_dict(), {"kid": "two"})]).as_dict(private=False))
    for _ in range(5):
        assert await provider.key("two") is None
    now += PROVIDER_KEYS_AGAIN_S
    assert await provider.key("two") is not None
    assert await provider.key("one") is None
    assert [request.url.path for request in fake.asked].count("/keys") == 2
    await provider.close()


async def test_keys_of_no_use_are_passed_over(fake: Fake) -> None:
    fake.keys["keys"] = [
        None, {}, {"kty": []},
        {"kty": "RSA"}, {"kty": "XYZ"}, {"kty": "RSA", "n": 5}, {"kty": "EC", "crv": "none", "x": "", "y": 1},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"}, {**KEY.as_dict(private=False), "use": "enc", "kid": "enc"},
        *fake.keys["keys"],
    ]  # fmt: skip
    provider = Provider(ISSUER, transport=fake)
    assert await provider.key("one") is not None
    for kid in ("oct", "enc", None):
        assert await provider.key(kid) is None
    await provider.close()
