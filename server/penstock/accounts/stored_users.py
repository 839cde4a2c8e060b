"""Users: in the database append-only, all of them in memory."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack

import pyarrow as pa

from penstock.accounts.bounds import LEEWAY_S, USERS_MAX, USERS_PER_TENANT_MAX
from penstock.accounts.changes import Changes, finished
from penstock.accounts.model import User, roles_of, roles_text
from penstock.errors import AlreadyStored, NotFound, Overloaded
from penstock.storage.engine import Engine, Lane, Row

_READ = """
SELECT
    u.name AS name,
    argMax(u.tenant, u.changed) AS tenant,
    argMaxIf(u.password_hash, u.changed, isNotNull(u.password_hash)) AS password_hash,
    argMaxIf(u.roles, u.changed, isNotNull(u.roles)) AS roles,
    argMaxIf(u.email, u.changed, isNotNull(u.email)) AS email,
    argMaxIf(u.subject, u.changed, isNotNull(u.subject)) AS subject,
    argMaxIf(u.disabled, u.changed, isNotNull(u.disabled)) AS disabled,
    max(u.valid_from) AS valid_from,
    argMaxIf(u.created, u.changed, isNotNull(u.created)) AS created,
    argMaxIf(u.created_by, u.changed, isNotNull(u.created_by)) AS created_by,
    argMaxIf(u.deleted, u.changed, isNotNull(u.deleted)) AS deleted,
    max(u.changed) AS changed
FROM users AS u
GROUP BY u.name
HAVING toUnixTimestamp64Micro(max(u.stored)) >= {since:Int64}
"""
_TIME = pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("name", pa.string()),
        ("changed", _TIME),
        ("password_hash", pa.string()),
        ("roles", pa.string()),
        ("email", pa.string()),
        ("subject", pa.string()),
        ("disabled", pa.uint8()),
        ("valid_from", _TIME),
        ("created", _TIME),
        ("created_by", pa.string()),
        ("deleted", pa.uint8()),
    ]
)


class UserChange(TypedDict, total=False):
    """What of a user can change."""

    password_hash: str
    roles: frozenset[int]
    email: str
    subject: str
    disabled: bool
    valid_from: datetime


class StoredUsers:
    """All users of all tenants. Any server may change them; others see it at their next `refresh`."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now
        self._changes = Changes(engine, "users", _READ)
        self._users: dict[str, User] = {}
        self._lock = asyncio.Lock()

    def get(self, name: str) -> User | None:
        """The user of this name, in lower case. The same object until something of it changes."""
        return self._users.get(name)

    def of(self, tenant: str) -> list[User]:
        """The tenant's users, by name."""
        return sorted((user for user in self._users.values() if user.tenant == tenant), key=lambda user: user.name)

    async def refresh(self) -> None:
        """Sees what other servers changed. Raises Unavailable, TimedOut."""
        async with self._lock:
            await self._read()

    async def add(self, user: User) -> User:
        """Stores a new user. Raises AlreadyStored (USER_EXISTS), Overloaded (TOO_MANY_USERS), Unavailable, TimedOut."""
        return await finished(self._add(user))

    async def change(self, name: str, **changes: Unpack[UserChange]) -> User:
        """Changes something of a user. Raises NotFound (USER_NOT_FOUND), Unavailable, TimedOut."""
        return await finished(self._change(name, changes))

    async def remove(self, name: str) -> None:
        """Removes a user. Raises as `change`."""
        await finished(self._remove(name))

    async def _add(self, user: User) -> User:
        async with self._lock:
            await self._read()
            if user.name in self._users:
                raise user_exists()
            if sum(each.tenant == user.tenant for each in self._users.values()) >= USERS_PER_TENANT_MAX:
                raise Overloaded(
                    f"{USERS_PER_TENANT_MAX} users of a tenant are the most, disabled ones among them: give programs "
                    "API keys instead of users, or ask whoever runs the server for another tenant",
                    reason="TOO_MANY_USERS",
                )
            if len(self._users) >= USERS_MAX:
                raise Overloaded(
                    f"{USERS_MAX} users of all tenants are the most: tell whoever runs the server",
                    reason="TOO_MANY_USERS",
                )
            user = replace(user, changed=self._now())
            whole: UserChange = {
                "password_hash": user.password_hash,
                "roles": user.roles,
                "email": user.email,
                "subject": user.subject,
                "disabled": user.disabled,
                "valid_from": user.valid_from,
            }
            await self._append(
                user.tenant, user.name, user.changed, whole, created=user.created, created_by=user.created_by, deleted=0
            )
            await self._read()
            # Another server may have made one of this name in the same instant: then the later one is there.
            stored = self._users.get(user.name)
            if stored is None or (stored.tenant, stored.created) != (user.tenant, user.created):
                raise user_exists()
            return stored

    async def _change(self, name: str, changes: UserChange) -> User:
        async with self._lock:
            user = self._there(name)
            changed = self._after(user)
            await self._append(user.tenant, name, changed, changes)
            self._users[name] = user = replace(user, **changes, changed=changed)
            return user

    async def _remove(self, name: str) -> None:
        async with self._lock:
            user = self._there(name)
            changed = self._after(user)
            # Whoever gets this name later shall not get the sessions with it.
            ended: UserChange = {"valid_from": changed + timedelta(seconds=LEEWAY_S)}
            await self._append(user.tenant, name, changed, ended, deleted=1)
            del self._users[name]

    async def _read(self) -> None:
        for row in await self._changes.read():
            if row["deleted"]:
                self._users.pop(row["name"], None)
                continue
            user = _user(row)
            if self._users.get(user.name) != user:
                self._users[user.name] = user

    def _there(self, name: str) -> User:
        user = self._users.get(name)
        if user is None:
            raise NotFound("there is no such user", reason="USER_NOT_FOUND")
        return user

    def _after(self, user: User) -> datetime:
        """Now, or behind the user's last change where the clock was put back."""
        return max(self._now(), user.changed + timedelta(microseconds=1))

    async def _append(self, tenant: str, name: str, changed: datetime, changes: UserChange, **more: object) -> None:
        row: dict[str, Any] = {"tenant": tenant, "name": name, "changed": changed, **changes, **more}
        if "roles" in changes:
            row["roles"] = roles_text(changes["roles"])
        if "disabled" in changes:
            row["disabled"] = int(changes["disabled"])
        await self._engine.insert_arrow("users", pa.Table.from_pylist([row], _SCHEMA), lane=Lane.COMMIT)


def _user(row: Row) -> User:
    return User(
        tenant=row["tenant"],
        name=row["name"],
        password_hash=row["password_hash"] or "",
        roles=roles_of(row["roles"]),
        email=row["email"] or "",
        subject=row["subject"] or "",
        disabled=bool(row["disabled"]),
        valid_from=row["valid_from"].replace(tzinfo=UTC),
        created=row["created"].replace(tzinfo=UTC),
        created_by=row["created_by"] or "",
        changed=row["changed"].replace(tzinfo=UTC),
    )


def user_exists() -> AlreadyStored:
    """The name is taken, by a user of whichever tenant: the caller learns no more than that."""
    return AlreadyStored("there is a user of this name already", reason="USER_EXISTS")
