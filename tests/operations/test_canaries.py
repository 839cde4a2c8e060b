"""Secrets are planted wherever a server has any, and looked for in all that it tells: none is there, in no spelling."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import secrets
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import grpc
import pyarrow as pa
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

from penstock.accounts.v1 import accounts_service_pb2 as accounts
from penstock.accounts.v1 import accounts_service_pb2_grpc
from penstock.operations.v1 import operations_service_pb2 as operations
from penstock.operations.v1 import operations_service_pb2_grpc
from penstock.queries.v1 import queries_service_pb2 as queries
from penstock.queries.v1 import queries_service_pb2_grpc
from penstock.rest import contract
from tests.faults.redis_on_port import RedisOnPort
from tests.process import ServerProcess
from tests.waiting import WAIT_S_MAX

FORM_CHARS_MIN = 16  # shorter ones are met by chance
USER, REDIS_USER = "ann@example.com", "penstock"
WRONG_PASSWORDS = 3
ANY = "*"
FORGED_CHARS = 6
ASK_KEY = "language model's key"


def forms(secret: str) -> Iterator[bytes]:
    """What a secret looks like where it is quoted, in a URL, or anywhere within something in base64."""
    spelled = {secret.encode(), quote(secret, safe="").encode(), quote_plus(secret).encode()}
    yield from (*spelled, secret.encode().hex().encode())
    for each, before in itertools.product(spelled, range(3)):
        coded = base64.b64encode(bytes(before) + each)
        own = coded[-(-before * 8 // 6) : (before + len(each)) * 8 // 6]  # what no neighbour has a part in
        yield from (own, own.translate(bytes.maketrans(b"+/", b"-_")))


@dataclass(slots=True)
class Told:
    """What anybody was told, by where, and what none of it may hold."""

    secrets: dict[str, str] = field(default_factory=dict)
    texts: list[tuple[str, bytes]] = field(default_factory=list)

    def plant(self, name: str, *, chars: int = 40) -> str:
        """A new secret, with characters that URLs and forms spell in another way."""
        return self.keep(name, f"/+{secrets.token_urlsafe(chars)[: chars - 3]}%")

    def keep(self, name: str, secret: str) -> str:
        """A secret that was made elsewhere."""
        assert all(len(form) >= FORM_CHARS_MIN for form in forms(secret)), name
        self.secrets[name] = secret
        return secret

    def keep_end(self, name: str, credential: str) -> None:
        """The part that nobody can guess, but for its last characters: a forged one has others there."""
        separator = "_" if credential.startswith(("pk_", "rt_")) else "."
        self.keep(name, credential.rpartition(separator)[2][:-FORGED_CHARS])

    def add(self, where: str, text: str | bytes) -> None:
        """Somebody was told this."""
        self.texts.append((where, text.encode() if isinstance(text, str) else text))

    def of(self, where: str) -> str:
        """All that was told there."""
        return b"\n".join(text for place, text in self.texts if place == where).decode(errors="replace")

    def leaks(self) -> list[str]:
        """Which secret was told where, with what stands around it."""
        found = []
        for name, secret in self.secrets.items():
            for form in set(forms(secret)):
                for where, text in self.texts:
                    place = text.find(form)
                    if place >= 0:
                        found.append(f"{name} in {where}: {text[max(0, place - 120) : place + len(form) + 40]!r}")
        return found

    async def call(
        self,
        rpc: Any,
        request: Any,
        credential: str = "",
        *,
        reason: str = "",
        shows: bool = False,
        where: str = "",
        **metadata: str,
    ) -> Any:
        """The answer; None where it is refused, for `reason`, ANY for whatever may come of it.

        `shows`: the answer is there to show a secret. `where` it was told, if not by the request's own name.
        """
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        call = rpc(request, metadata=[*sent, *([("authorization", f"Bearer {credential}")] if credential else [])])
        where = where or type(request).__name__.removesuffix("Request")
        answer, came = None, ""
        try:
            answer = await call
            if not shows:
                self.add(where, answer if isinstance(answer, bytes) else answer.SerializeToString())
        except grpc.aio.AioRpcError as error:
            info, status = error_details_pb2.ErrorInfo(), rpc_status.from_call(error)
            if status is not None and any(each.Unpack(info) for each in status.details):
                came = info.reason
            self.add(where, f"{error.details()}\n{status}")
        assert reason in (ANY, came), f"{where}: {came!r} instead of {reason!r}"
        for one in (await call.initial_metadata(), await call.trailing_metadata()):
            for name, value in one:
                self.add(f"{where}'s {name}", value)
        return answer


class Elsewhere(ThreadingHTTPServer):
    """An OpenID provider and a language model that refuse whoever comes, and quote what they came with."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusing)
        self.heard: list[str] = []

    @property
    def url(self) -> str:
        """Where both are."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Refusing(BaseHTTPRequestHandler):
    server: Elsewhere

    def do_GET(self) -> None:
        endpoints = {name: f"{self.server.url}/{name}" for name in ("authorization_endpoint", "token_endpoint")}
        self._answer(200, {"issuer": self.server.url, "jwks_uri": f"{self.server.url}/keys", **endpoints})

    def do_POST(self) -> None:
        came_with = self.headers.get("authorization", "")
        self.server.heard.append(came_with)
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(401, {"error": "invalid_client", "error_description": f"wrong credential: {came_with}"})

    def _answer(self, status: int, said: Mapping[str, object]) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the library's name


@contextlib.contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """It, while it runs."""
    with Elsewhere() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def penstock(*arguments: str, env: Mapping[str, str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """What the command printed; its exit code must be `code`."""
    command = [sys.executable, "-m", "penstock", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@contextlib.asynccontextmanager
async def redis_with_password(folder: Path, password: str) -> AsyncIterator[tuple[RedisOnPort, str]]:
    """A Redis, and its URL with a user's password in it."""
    async with RedisOnPort(folder) as redis:
        async with redis.client() as client:
            await client.execute_command("ACL", "SETUSER", REDIS_USER, "on", f">{password}", "~*", "+@all")
        yield redis, redis.url.replace("//", f"//{REDIS_USER}:{quote(password, safe='')}@")


async def taken_away(redis: RedisOnPort, how: str) -> None:
    """Redis is gone, or takes the password no more."""
    if how == "killed":
        await redis.kill()
        return
    async with redis.client() as client:
        await client.execute_command("ACL", "SETUSER", REDIS_USER, "resetpass", ">another")
        await client.execute_command("CLIENT", "KILL", "USER", REDIS_USER)


@dataclass(frozen=True, slots=True)
class Run:
    """A way to run the server, and what is wrong around it."""

    log_format: str
    redis: str  # what becomes of it
    ask_key_end: str  # behind the language model's key


RUNS = [
    pytest.param(Run("text", "killed", ""), id="text"),
    # As in a variable that was set from a file: its line's end is not the key's, and no header can hold it.
    pytest.param(Run("json", "refuses", "\n"), id="json", marks=pytest.mark.slow),
]


@dataclass(frozen=True, slots=True)
class Callers:
    """A running server, and with what it is called."""

    told: Told
    channel: grpc.aio.Channel
    admin: str  # an API key

    @property
    def stub(self) -> accounts_service_pb2_grpc.AccountServiceStub:
        """Users and keys."""
        return accounts_service_pb2_grpc.AccountServiceStub(self.channel)

    async def sign_in(self, password: str, name: str) -> accounts.CreateTokenResponse:
        """Tokens of the user; the part of each that nobody can guess is a secret by this name."""
        request = accounts.CreateTokenRequest(username=USER, password=password)
        tokens = await self.told.call(self.stub.CreateToken, request, shows=True)
        self._keep(tokens, name)
        return tokens

    async def refreshed(self, token: str, name: str) -> accounts.RefreshTokenResponse:
        """The tokens that follow."""
        request = accounts.RefreshTokenRequest(refresh_token=token)
        tokens = await self.told.call(self.stub.RefreshToken, request, shows=True)
        self._keep(tokens, name)
        return tokens

    async def key(self, name: str) -> accounts.CreateApiKeyResponse:
        """An API key of a viewer."""
        request = accounts.CreateApiKeyRequest(name=name, roles=["viewer"])
        made = await self.told.call(self.stub.CreateApiKey, request, self.admin, shows=True)
        self.told.keep_end(name, made.key)
        return made

    def _keep(self, tokens: Any, name: str) -> None:
        self.told.keep_end(f"access token {name}", tokens.access_token)
        self.told.keep_end(f"refresh token {name}", tokens.refresh_token)


def forged(credential: str) -> str:
    """One that is of the same form and does not hold."""
    return credential[:-FORGED_CHARS] + FORGED_CHARS * "A"


async def users_and_keys(callers: Callers) -> str:
    """What goes well and what does not, with passwords, keys and tokens; the user's password in the end."""
    told, admin, stub = callers.told, callers.admin, callers.stub
    password, new = told.plant("password"), told.plant("new password")
    user = accounts.CreateUserRequest(name=USER, password=password, roles=["viewer"])
    await told.call(stub.CreateUser, user, admin)
    await told.call(stub.CreateUser, user, admin, reason="USER_EXISTS")
    for name, long in (("bad name\n", user.password), (USER, told.plant("too long") + 300 * "x")):
        request = accounts.CreateUserRequest(name=name, password=long, roles=["king"])
        await told.call(stub.CreateUser, request, admin, reason="INVALID_FIELD")
    for number in range(WRONG_PASSWORDS):
        guess = accounts.CreateTokenRequest(username=USER, password=told.plant(f"wrong password {number}"))
        await told.call(stub.CreateToken, guess, reason="WRONG_CREDENTIALS")
    await told.call(stub.GetMe, accounts.GetMeRequest(), reason="TOKEN_INVALID", credential=password)
    garbled = callers.channel.unary_unary("/penstock.accounts.v1.AccountService/CreateToken")
    await told.call(garbled, user.SerializeToString()[:-9] + b"\xff", reason="MALFORMED_MESSAGE")

    first = await callers.sign_in(password, "first")
    await told.call(stub.GetMe, accounts.GetMeRequest(), first.access_token)
    await told.call(stub.GetMe, accounts.GetMeRequest(), forged(first.access_token), reason="TOKEN_INVALID")
    await told.call(stub.CreateUser, user, first.access_token, reason="ROLE_MISSING")
    second = await callers.refreshed(first.refresh_token, "second")
    for reason in ("REFRESH_TOKEN_REUSED", "SESSION_ENDED"):
        again = accounts.RefreshTokenRequest(refresh_token=first.refresh_token)
        await told.call(stub.RefreshToken, again, reason=reason)
    wrong = accounts.RefreshTokenRequest(refresh_token=forged(second.refresh_token))
    await told.call(stub.RefreshToken, wrong, reason="REFRESH_TOKEN_INVALID")
    await told.call(stub.GetMe, accounts.GetMeRequest(), second.access_token, reason="TOKEN_REVOKED")

    good, revoked = await callers.key("good key"), await callers.key("revoked key")
    await told.call(stub.RevokeApiKey, accounts.RevokeApiKeyRequest(id=revoked.api_key.id), admin)
    await told.call(stub.GetMe, accounts.GetMeRequest(), x_api_key=good.key)
    await told.call(stub.GetMe, accounts.GetMeRequest(), revoked.key, reason="KEY_REVOKED")
    await told.call(stub.GetMe, accounts.GetMeRequest(), forged(good.key), reason="KEY_INVALID")
    await told.call(stub.RevokeApiKey, accounts.RevokeApiKeyRequest(id=good.key), admin, reason="INVALID_FIELD")

    update = accounts.UpdateUserRequest(name=USER, password=new)
    await told.call(stub.UpdateUser, update, admin, reason="INVALID_FIELD")
    update.update_mask.paths.append("password")
    await told.call(stub.UpdateUser, update, admin)
    return new


async def services_elsewhere(callers: Callers, run: Run) -> None:
    """Calls that have the server show its secrets to others, who refuse them, and one that would show a caller's."""
    told, stub = callers.told, callers.stub
    begun = accounts.StartSignInRequest()
    call = stub.StartSignIn(begun)
    url = (await call).authorization_url
    cookie = dict(await call.trailing_metadata())["set-cookie"].partition(";")[0]
    state = parse_qs(urlsplit(url).query)["state"][0]
    back = accounts.FinishSignInRequest(code=told.plant("sign-in code"), state=state)
    await told.call(stub.FinishSignIn, back, cookie=cookie, reason="SIGN_IN_REFUSED")
    sql = queries_service_pb2_grpc.QueryServiceStub(callers.channel)
    statement = f"SELECT * FROM s3('https://bucket.example/x', 'id', '{told.plant('secret in a statement')}')"
    await told.call(sql.RunSql, queries.RunSqlRequest(sql=statement), callers.admin, reason="SQL_REFUSED")
    await told.call(sql.AskQuestion, queries.AskQuestionRequest(question="what?"), callers.admin, reason="ASK_FAILED")


async def state_of_the_server(callers: Callers) -> None:
    """Whatever rpc tells of something when it is asked nothing, and gRPC's own health."""
    for rpc in contract.rpcs():
        method = rpc.method
        if re.match("Get|List|Check", method.name) and not (method.server_streaming or method.client_streaming):
            call = callers.channel.unary_unary(rpc.path)
            await callers.told.call(call, b"", callers.admin, reason=ANY, where=method.name)
    health = health_pb2_grpc.HealthStub(callers.channel)
    await callers.told.call(health.Check, health_pb2.HealthCheckRequest(), callers.admin)


async def calls(server: ServerProcess, redis: RedisOnPort, told: Told, run: Run, admin: str) -> None:
    """All that happens while the server runs."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        callers = Callers(told, channel, admin)
        caches = operations_service_pb2_grpc.OperationsServiceStub(channel)

        async def redis_is(state: str) -> bool:
            request = operations.GetCacheStatsRequest()
            return bool((await told.call(caches.GetCacheStats, request, admin)).redis == state)

        assert await redis_is("connected"), "the password is right"
        password = await users_and_keys(callers)
        await services_elsewhere(callers, run)
        await taken_away(redis, run.redis)
        async with asyncio.timeout(WAIT_S_MAX):
            while not await redis_is("away"):
                await told.call(caches.InvalidateCache, operations.InvalidateCacheRequest(), admin)  # which asks it
        tokens = await callers.sign_in(password, "without Redis")
        await told.call(callers.stub.GetMe, accounts.GetMeRequest(), tokens.access_token)
        await state_of_the_server(callers)
        scraped = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log)
        assert scraped is not None, server.log
        told.add("metrics", await asyncio.to_thread(lambda: urllib.request.urlopen(scraped[0], timeout=10).read()))


def backed_up(data_dir: Path, file: Path, told: Told, env: Mapping[str, str]) -> None:
    """What a backup says, and what is in it."""
    done = penstock("backup", str(file), "--data-dir", str(data_dir), env=env)
    told.add("backup's output", done.stdout + done.stderr)
    with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as plain:
        unpacked = plain.read()
    told.add("backup", unpacked)
    with tarfile.open(fileobj=pa.BufferReader(unpacked)) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        told.add("manifest", manifest.read())


async def told_in(run: Run, folder: Path) -> Told:
    """All that is told in a run, from the first key to a backup."""
    told, data_dir, files = Told(), folder / "data", folder / "secrets"
    client_secret, ask_key = told.plant("client secret"), told.plant(ASK_KEY)
    files.mkdir()
    (files / "PENSTOCK_OIDC_CLIENT_SECRET").write_text(client_secret, encoding="utf-8")
    with elsewhere() as others:
        async with redis_with_password(folder / "redis", told.plant("password of Redis")) as (redis, redis_url):
            env = {
                "PENSTOCK_AUTH": "required",
                "PENSTOCK_RATE_LIMIT": "10000",
                "PENSTOCK_REDIS_URL": redis_url,
                "PENSTOCK_PUBLIC_URL": "http://127.0.0.1:1",
                "PENSTOCK_OIDC_ISSUER": others.url,
                "PENSTOCK_OIDC_CLIENT_ID": "penstock",
                "PENSTOCK_SECRETS_DIR": str(files),
                "PENSTOCK_ASK_URL": f"{others.url}/v1",
                "PENSTOCK_ASK_MODEL": "writer",
                "PENSTOCK_ASK_API_KEY": ask_key + run.ask_key_end,
                "PENSTOCK_METRICS_PORT": "0",
                "PENSTOCK_LOG_LEVEL": "debug",
                "PENSTOCK_LOG_FORMAT": run.log_format,
            }
            create = ("accounts", "create-key", "admin", "--role", "admin", "--quiet", "--data-dir", str(data_dir))
            made = await asyncio.to_thread(penstock, *create, env=env)
            admin = made.stdout.strip()
            told.keep_end("key of the command line", admin)
            told.add("create-key's errors", made.stderr)
            with ServerProcess(data_dir, env=env) as server:
                await calls(server, redis, told, run, admin)
    told.add("log", server.log)
    told.add("ready file", json.dumps(server.ready))
    signing = json.loads((data_dir / "signing-keys.json").read_bytes())
    told.keep("secret that seals", signing["secret"])
    for key in signing["keys"]:
        told.keep("signing key", key["jwk"]["d"])
    await asyncio.to_thread(backed_up, data_dir, folder / "shop.backup", told, env)

    # The secrets were used, else it would say little that they are nowhere.
    basic = base64.b64encode(f"penstock:{quote_plus(client_secret)}".encode()).decode()
    assert others.heard == [f"Basic {basic}", f"Bearer {ask_key}"]
    return told


@pytest.fixture(scope="module", params=RUNS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    return asyncio.run(told_in(request.param, tmp_path_factory.mktemp("canaries")))


def test_no_secret_is_told(told: Told) -> None:
    for line in ("redis is away", "call refused", "an API key was made", "a refresh token was used again", "drained"):
        assert line in told.of("log")
    assert USER in told.of("ListUsers")
    assert "cache" in told.of("GetStatus")
    assert '"left_out"' in told.of("manifest")
    assert [leak for leak in told.leaks() if not leak.startswith(ASK_KEY)] == []


def test_the_key_of_the_language_model_is_not_told(told: Told) -> None:
    assert [leak for leak in told.leaks() if leak.startswith(ASK_KEY)] == []


def test_calls_are_counted_where_prometheus_looks(told: Told) -> None:
    counted = {
        sample.labels["code"]: sample.value
        for family in text_string_to_metric_families(told.of("metrics"))
        for sample in family.samples
        if sample.name == "penstock_rpc_requests_total" and sample.labels["method"].endswith("/CreateToken")
    }
    assert {code: count for code, count in counted.items() if count} == {
        "OK": 2,
        "UNAUTHENTICATED": WRONG_PASSWORDS,
        "INVALID_ARGUMENT": 1,
    }


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("PENSTOCK_CLICKHOUSE_URL", "http://shop:{}@127.0.0.1:9/shop"),
        # With a slash that is not quoted, behind which there is no password for who takes the URL apart.
        ("PENSTOCK_CLICKHOUSE_URL", "http://shop:{}/x@127.0.0.1:9/shop"),
        ("PENSTOCK_REDIS_URL", "redis://:{}/x@127.0.0.1:9/0"),
    ],
)
def test_a_start_that_fails_tells_no_password(tmp_path: Path, variable: str, url: str) -> None:
    told = Told()
    env = {variable: url.format(told.keep("password", secrets.token_hex(20))), "PENSTOCK_LOG_LEVEL": "debug"}
    done = penstock("serve", "--data-dir", str(tmp_path / "data"), "--grpc-port", "0", env=env, code=1)
    told.add("start", done.stdout + done.stderr)
    assert told.of("start").strip()
    assert told.leaks() == []


def test_what_is_looked_for_is_found() -> None:
    """Whatever it is in: else the tests above would find nothing, whatever is told."""
    told = Told()
    secret = told.plant("password")
    told.add("nothing", "all is well")
    assert told.leaks() == []
    for number, user in enumerate(("", "a", "bc", "def")):
        told.add(f"{number}", base64.b64encode(f"{user}:{secret}@".encode()))
    told.add("line", f"cannot reach redis://:{secret}@host")
    told.add("url", f"cannot reach redis://:{quote(secret, safe='')}@host")
    found = told.leaks()
    for where, _ in told.texts[1:]:
        assert any(each.startswith(f"password in {where}: ") for each in found), where
