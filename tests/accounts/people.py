"""Who calls, in tests with a real server: users and keys in its database before it starts."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from joserfc import jwt

from penstock.accounts.accounts import Accounts, console
from penstock.accounts.api_keys import minted
from penstock.accounts.model import ApiKey
from penstock.accounts.secret_text import digest
from penstock.accounts.signing import ALGORITHM, SigningKeys
from penstock.accounts.store import AccountStore
from penstock.accounts.tokens import TYPE
from penstock.rpc.principal import ROLES
from penstock.settings import Settings
from penstock.storage.engine import open_engine
from penstock.storage.schema import migrate

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True, slots=True)
class People:
    """What some callers call with."""

    keys: dict[tuple[str, str], str]  # by tenant and role
    expired_key: str
    revoked_key: str
    user: str  # an admin of the tenant `default`, who signs in with PASSWORD
    expired_token: str
    revoked_token: str  # of a session that was signed out
    other_audience: str  # a token of these very keys that is meant for somebody else
    unsigned: str  # alg none


def people(data_dir: Path, tenants: tuple[str, ...] = ("default", "other")) -> People:
    """Makes them in the database of a server that is yet to start."""
    return asyncio.run(_people(Settings(data_dir=data_dir, fsync=False), tenants))


async def _people(settings: Settings, tenants: tuple[str, ...]) -> People:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_engine(settings)
    try:
        await migrate(engine, settings)
        async with Accounts.opened(engine, settings) as accounts:
            keys = {}
            for tenant in tenants:
                for name, role in ROLES.items():
                    _, keys[tenant, name] = await accounts.create_key(console(tenant), name, [role])
            revoked, revoked_key = await accounts.create_key(console("default"), "revoked", [ROLES["admin"]])
            await accounts.revoke_key("default", revoked.id)
            await accounts.create_user(console("default"), "root", PASSWORD, [ROLES["admin"]])
            await accounts.create_user(console("default"), "gone", PASSWORD, [ROLES["admin"]])
            gone = await accounts.sign_in("gone", PASSWORD)
            await accounts.sign_out(gone.principal.session)
            expired_key = await _expired_key(AccountStore(engine))
        signing = SigningKeys.load_or_create(settings.signing_keys_file)
        return People(
            keys,
            expired_key,
            revoked_key,
            "root",
            revoked_token=gone.access,
            expired_token=_token(signing, "penstock", -3_600),
            other_audience=_token(signing, "another service", 3_600),
            unsigned="eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.eyJzdWIiOiJyb290IiwidGVuYW50IjoiZGVmYXVsdCJ9.",
        )
    finally:
        await engine.close()


async def _expired_key(store: AccountStore) -> str:
    await store.open()
    parts, now = minted(), datetime.now(UTC)
    hour = timedelta(hours=1)
    key = ApiKey(
        parts.id,
        "default",
        "expired",
        frozenset([ROLES["admin"]]),
        digest(parts.secret),
        "",
        created=now - 2 * hour,
        expires=now - hour,
        last_used=None,
        revoked=None,
    )
    await store.keys.add(key)
    return parts.text


def _token(signing: SigningKeys, audience: str, holds_s: int) -> str:
    now = int(datetime.now(UTC).timestamp())
    claims = {
        "iss": "penstock",
        "aud": audience,
        "sub": "root",
        "tenant": "default",
        "roles": ["admin"],
        "sid": "session",
        "auth_time": float(now),
        "iat": now,
        "exp": now + holds_s,
        "jti": "one",
    }
    key = signing.signing
    return jwt.encode({"alg": ALGORITHM, "typ": TYPE, "kid": key.kid}, claims, key, algorithms=[ALGORITHM])
