"""Accounts on a real engine, with passwords that cost little and a clock that can be put forward."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from penstock.accounts.accounts import Accounts, console
from penstock.accounts.attempts import Attempts
from penstock.accounts.passwords import Passwords
from penstock.accounts.signing import SigningKeys
from penstock.accounts.store import AccountStore
from penstock.rpc.principal import Principal
from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.schema import migrate

PASSWORD = "correct horse battery staple"


class Clock:
    """The time, until it is put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """What all of a test goes by."""
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> SigningKeys:
    """Signing keys in a file of the test."""
    return SigningKeys.load_or_create(tmp_path / "keys" / "signing.json", clock)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseEngine]:
    """An engine for the tests of a module: to make one takes longer than most of them do."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("accounts"), fsync=False)
    made = open_engine(settings)
    asyncio.run(migrate(made, settings))
    yield made
    asyncio.run(made.close())


@pytest.fixture
async def database(opened: ClickHouseEngine) -> ClickHouseEngine:
    """It, without any accounts."""
    for table in ("users", "api_keys", "api_key_uses", "sign_in_sessions"):
        await opened.execute(f"TRUNCATE TABLE {table}")
    return opened


@pytest.fixture
async def server(database: ClickHouseEngine, keys: SigningKeys, clock: Clock) -> AsyncIterator[Callable[[], Accounts]]:
    """Makes servers that share one database; each is to be opened."""
    made: list[Accounts] = []

    def server() -> Accounts:
        passwords = Passwords(time_cost=1, memory_kib=8)
        made.append(
            Accounts(AccountStore(database, clock), keys, passwords, attempts=Attempts(clock=clock), clock=clock)
        )
        return made[-1]

    yield server
    for each in made:
        await each.close()


@pytest.fixture
async def accounts(server: Callable[[], Accounts]) -> Accounts:
    """One server."""
    made = server()
    await made.open()
    return made


@pytest.fixture
def admin() -> Principal:
    """Who may do everything in the tenant `acme`."""
    return console("acme")
