"""Sessions in Redis: one hash a user, changed by one script a change.

A field is an interaction, named by its request_id, so storing it again changes nothing. Two more fields tell what is
known: `known` says when the session was last read from ClickHouse, and without it what is here may not be all;
`rebuilding` is a random mark set before such a reading, and what was read is stored only while the mark is there. So a
session that was forgotten meanwhile is not brought back by what was read before.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock.cache.redis import ABSENT, Absent, Call, Redis, Script, key_of
from penstock.feedback.sessions_state import INTERACTIONS_MAX, Interaction, packed, unpacked

TRIM_AT = (
    INTERACTIONS_MAX * 5 // 4
)  # fields: to take away the oldest costs a look at all, so it is done for many at once
SESSION_TTL_S = 6 * 3600  # since the last interaction: six half-lives of the slowest
_OWN_FIELDS = 2

# KEYS: the session. ARGV: seconds to keep, interactions to keep, fields at most, the mark or nothing, the time or
# nothing, then a field and a value of each interaction. An interaction's time stands in its value's first 17 bytes; at
# equal times the request_id decides, in hex because Redis compares texts by the locale of its machine.
_STORE = Script("""
local key = KEYS[1]
if ARGV[4] ~= '' then
  if redis.call('HGET', key, 'rebuilding') ~= ARGV[4] then
    return -1
  end
  redis.call('HDEL', key, 'rebuilding')
  redis.call('HSET', key, 'known', ARGV[5])
end
local added = 0
for place = 6, #ARGV, 2 do
  added = added + redis.call('HSETNX', key, ARGV[place], ARGV[place + 1])
end
redis.call('EXPIRE', key, ARGV[1])
if redis.call('HLEN', key) <= tonumber(ARGV[3]) then
  return added
end
local function hex(text)
  return (text:gsub('.', function(each) return string.format('%02x', each:byte()) end))
end
local fields, found = redis.call('HGETALL', key), {}
for place = 1, #fields, 2 do
  if fields[place]:sub(1, 1) == '=' then
    found[#found + 1] = {fields[place], fields[place + 1]:sub(1, 17)}
  end
end
table.sort(found, function(one, other)
  if one[2] ~= other[2] then
    return one[2] > other[2]
  end
  return hex(one[1]) > hex(other[1])
end)
for place = tonumber(ARGV[2]) + 1, #found do
  redis.call('HDEL', key, found[place][1])
end
return added
""")

# KEYS: the session. ARGV: a fresh mark, seconds to keep.
_MARK = Script("""
redis.call('HSETNX', KEYS[1], 'rebuilding', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'rebuilding')
""")

# KEYS: the session. Answers how many interactions it had.
_FORGET = Script("""
local count = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field:sub(1, 1) == '=' then
    count = count + 1
  end
end
redis.call('DEL', KEYS[1])
return count
""")


@dataclass(frozen=True, slots=True)
class Stored:
    """What Redis has of a session."""

    interactions: Sequence[Interaction]
    known_s: float | None  # when it was last read from ClickHouse, in seconds since 1970; None: never


class SessionStore:
    """The sessions in Redis. ABSENT: it is away, and nobody knows what it did."""

    def __init__(self, redis: Redis, wall_clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._wall_clock = wall_clock

    async def read(self, tenant: str, user: str) -> Stored | Absent:
        """What is stored, in no order and perhaps more than INTERACTIONS_MAX."""
        fields = await self._redis.hash(_key(tenant, user))
        if fields is ABSENT:
            return ABSENT
        known = fields.get(b"known")
        interactions = [
            unpacked(field[1:].decode(), value) for field, value in fields.items() if field.startswith(b"=")
        ]
        return Stored(interactions, float(known) if known is not None else None)

    async def add(self, tenant: str, batch: Mapping[str, Iterable[Interaction]]) -> list[bool]:
        """Stores interactions by user; for each user whether Redis did it."""
        calls = [Call([_key(tenant, user)], _arguments(interactions)) for user, interactions in batch.items()]
        return [reply is not ABSENT for reply in await self._redis.run_many(_STORE, calls)]

    async def mark(self, tenant: str, user: str) -> bytes | Absent:
        """The mark to read ClickHouse under: a new one, or that of whoever reads it already."""
        reply = await self._redis.run(_MARK, [_key(tenant, user)], [secrets.token_hex(8), SESSION_TTL_S])
        if reply is ABSENT:
            return ABSENT
        assert isinstance(reply, bytes)
        return reply

    async def rebuild(self, tenant: str, user: str, interactions: Iterable[Interaction], mark: bytes) -> bool | Absent:
        """Stores what ClickHouse had; False when the mark is gone: it was forgotten or evicted, or another did it."""
        arguments = _arguments(interactions, mark, repr(self._wall_clock()))
        reply = await self._redis.run(_STORE, [_key(tenant, user)], arguments)
        return ABSENT if reply is ABSENT else reply != -1

    async def forget(self, tenant: str, user: str) -> int | Absent:
        """Removes a session; how many interactions it had."""
        reply = await self._redis.run(_FORGET, [_key(tenant, user)], ())
        if reply is ABSENT:
            return ABSENT
        assert isinstance(reply, int)
        return reply


def _key(tenant: str, user: str) -> str:
    return key_of("session", tenant, user)


def _arguments(interactions: Iterable[Interaction], mark: bytes = b"", known: str = "") -> list[bytes | str | int]:
    arguments: list[bytes | str | int] = [SESSION_TTL_S, INTERACTIONS_MAX, TRIM_AT + _OWN_FIELDS, mark, known]
    for each in interactions:
        arguments += (f"={each.request_id}", packed(each))
    return arguments
