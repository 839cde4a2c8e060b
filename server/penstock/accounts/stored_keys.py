"""API keys: in the database append-only, all that hold, or did lately, in memory."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from penstock.accounts.bounds import KEY_USE_WRITTEN_S, KEYS_MAX, KEYS_PER_TENANT_MAX, KEYS_SHOWN_S
from penstock.accounts.changes import Changes, finished
from penstock.accounts.model import ApiKey, roles_of, roles_text
from penstock.errors import NotFound, Overloaded
from penstock.storage.engine import Engine, Lane, Row

_READ = """
SELECT
    k.id AS id,
    any(k.tenant) AS tenant,
    argMaxIf(k.name, k.changed, isNotNull(k.name)) AS name,
    argMaxIf(k.roles, k.changed, isNotNull(k.roles)) AS roles,
    argMaxIf(k.secret_hash, k.changed, isNotNull(k.secret_hash)) AS secret_hash,
    argMaxIf(k.created_by, k.changed, isNotNull(k.created_by)) AS created_by,
    argMaxIf(k.created, k.changed, isNotNull(k.created)) AS created,
    max(k.expires) AS expires,
    minIf(k.changed, k.revoked) AS revoked_at,
    max(k.revoked) AS revoked
FROM api_keys AS k
GROUP BY k.id
HAVING toUnixTimestamp64Micro(max(k.stored)) >= {since:Int64}
"""
_READ_USES = """
SELECT k.id AS id, max(k.used) AS used
FROM api_key_uses AS k
GROUP BY k.id
HAVING toUnixTimestamp64Micro(max(k.stored)) >= {since:Int64}
"""
_TIME = pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("id", pa.string()),
        ("changed", _TIME),
        ("name", pa.string()),
        ("roles", pa.string()),
        ("secret_hash", pa.string()),
        ("created_by", pa.string()),
        ("created", _TIME),
        ("expires", _TIME),
        ("revoked", pa.uint8()),
    ]
)
_USES_SCHEMA = pa.schema([("tenant", pa.string()), ("id", pa.string()), ("used", _TIME)])


class StoredKeys:
    """All keys of all tenants. Any server may change them; others see it at their next `refresh`."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now
        self._changes = Changes(engine, "api_keys", _READ)
        self._use_changes = Changes(engine, "api_key_uses", _READ_USES)
        self._keys: dict[str, ApiKey] = {}
        self._used: dict[str, datetime] = {}  # as far as this server knows
        self._written: dict[str, datetime] = {}  # the same, as it is stored
        self._lock = asyncio.Lock()

    def get(self, key_id: str) -> ApiKey | None:
        """The key with this id; its `last_used` is not told here. The same object until something else changes."""
        return self._keys.get(key_id)

    def of(self, tenant: str) -> list[ApiKey]:
        """The tenant's keys, oldest first; of those that no longer hold the ones of the last days."""
        self._drop_ended()
        found = [replace(key, last_used=self._used.get(key.id)) for key in self._keys.values() if key.tenant == tenant]
        return sorted(found, key=lambda key: (key.created, key.id))

    def used(self, key_id: str) -> None:
        """Remembers that a key was used now; stores nothing."""
        self._used[key_id] = self._now()

    async def refresh(self) -> None:
        """Sees what other servers changed. Raises Unavailable, TimedOut."""
        async with self._lock:
            await self._read()
        for row in await self._use_changes.read():
            if row["id"] in self._keys:
                used = self._written[row["id"]] = row["used"].replace(tzinfo=UTC)
                self._used[row["id"]] = max(used, self._used.get(row["id"], used))

    async def add(self, key: ApiKey) -> ApiKey:
        """Stores a new key. Raises Overloaded (TOO_MANY_KEYS), Unavailable, TimedOut."""
        return await finished(self._add(key))

    async def revoke(self, key_id: str) -> ApiKey:
        """Ends a key, for good. Raises NotFound (API_KEY_NOT_FOUND), Unavailable, TimedOut."""
        return await finished(self._revoke(key_id))

    async def write_uses(self) -> None:
        """Stores when keys were used, of each once an hour at most. Raises Unavailable, TimedOut."""
        due: list[dict[str, Any]] = []
        for key_id, used in self._used.items():
            key, written = self._keys.get(key_id), self._written.get(key_id)
            if key and (written is None or (used - written).total_seconds() >= KEY_USE_WRITTEN_S):
                due.append({"tenant": key.tenant, "id": key_id, "used": used})
        if due:
            table = pa.Table.from_pylist(due, _USES_SCHEMA)
            await self._engine.insert_arrow("api_key_uses", table, lane=Lane.COMMIT)
            self._written.update((row["id"], row["used"]) for row in due)

    async def _add(self, key: ApiKey) -> ApiKey:
        async with self._lock:
            await self._read()
            if sum(each.tenant == key.tenant for each in self._keys.values()) >= KEYS_PER_TENANT_MAX:
                raise Overloaded(f"{KEYS_PER_TENANT_MAX} keys of a tenant are the most", reason="TOO_MANY_KEYS")
            if len(self._keys) >= KEYS_MAX:
                raise Overloaded(f"{KEYS_MAX} keys of all tenants are the most", reason="TOO_MANY_KEYS")
            await self._append(
                {
                    "tenant": key.tenant,
                    "id": key.id,
                    "changed": key.created,
                    "name": key.name,
                    "roles": roles_text(key.roles),
                    "secret_hash": key.secret_hash,
                    "created_by": key.created_by,
                    "created": key.created,
                    "expires": key.expires,
                    "revoked": 0,
                }
            )
            self._keys[key.id] = key
            return key

    async def _revoke(self, key_id: str) -> ApiKey:
        async with self._lock:
            key = self._keys.get(key_id)
            if key is None:
                raise NotFound("there is no such key", reason="API_KEY_NOT_FOUND")
            if key.revoked is None:
                now = self._now()
                await self._append({"tenant": key.tenant, "id": key_id, "changed": now, "revoked": 1})
                self._keys[key_id] = key = replace(key, revoked=now)
            return replace(key, last_used=self._used.get(key_id))

    async def _read(self) -> None:
        for row in await self._changes.read():
            key = _key(row)
            if self._keys.get(key.id) != key:
                self._keys[key.id] = key
        self._drop_ended()

    def _drop_ended(self) -> None:
        gone = self._now() - timedelta(seconds=KEYS_SHOWN_S)
        for key in [*self._keys.values()]:
            ended = key.revoked or key.expires
            if ended is not None and ended < gone:
                del self._keys[key.id]
                self._used.pop(key.id, None)
                self._written.pop(key.id, None)

    async def _append(self, row: dict[str, Any]) -> None:
        await self._engine.insert_arrow("api_keys", pa.Table.from_pylist([row], _SCHEMA), lane=Lane.COMMIT)


def _key(row: Row) -> ApiKey:
    return ApiKey(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"] or "",
        roles=roles_of(row["roles"]),
        secret_hash=row["secret_hash"] or "",
        created_by=row["created_by"] or "",
        created=row["created"].replace(tzinfo=UTC),
        expires=row["expires"].replace(tzinfo=UTC) if row["expires"] else None,
        last_used=None,
        revoked=row["revoked_at"].replace(tzinfo=UTC) if row["revoked"] else None,
    )
