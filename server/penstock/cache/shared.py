"""The tier of answers in Redis: what its scripts promise, see `penstock.cache.results`.

The answers of one scope are the fields of one hash, so that they go together, by one UNLINK and without looking for
them. The hash has a random *token* from when it was made: who computes an answer has the token from before, and the
answer is kept only while it is the same. So an answer that was computed before an invalidation is never kept after it,
on whichever server, and a hash that Redis evicted or lost in a restart is no other case: the token is gone with it.
A second token, of the kind, invalidates all of a tenant's answers of a kind in the same way.
"""

import hashlib
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from penstock.cache.local import Asked, ScopeKey
from penstock.cache.redis import ABSENT, Absent, Call, Redis, Script, key_of

VALUE_BYTES_MAX = 1024 * 1024  # of one answer: a larger one may not come back within the time of a call
SCOPE_FIELDS_MAX = 64  # answers of one scope; past it they are dropped, they are computed anew in milliseconds
KIND_TOKEN_S = 7 * 86_400  # a kind that nobody asked for so long has no answers left

_EXPIRES = struct.Struct(">d")  # before each value: until when, in seconds since 1970

# KEYS: the kind's, the scope's. ARGV: field, a fresh token, seconds to keep, the token that the caller knows,
# seconds to keep the kind's token.
_LOOK = Script(
    """
local kind = redis.call('GET', KEYS[1])
if not kind then
  kind = ARGV[2]
  redis.call('SET', KEYS[1], kind, 'EX', ARGV[5])
end
local held = redis.call('HMGET', KEYS[2], 'kind', 'token')
if held[1] ~= kind or not held[2] then
  redis.call('UNLINK', KEYS[2])
  redis.call('HSET', KEYS[2], 'kind', kind, 'token', ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  return {ARGV[2]}
end
if held[2] == ARGV[4] then
  return {held[2]}
end
return {held[2], redis.call('HGET', KEYS[2], ARGV[1])}
"""
)

# KEYS: the scope's. ARGV: field, the token from before the computation, value, seconds to keep, most fields. Its kind's
# token need not be compared: what is kept under an old one, the next look throws away.
_KEEP = Script(
    """
local held = redis.call('HMGET', KEYS[1], 'kind', 'token')
if held[2] ~= ARGV[2] then
  return 0
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
  redis.call('UNLINK', KEYS[1])
  redis.call('HSET', KEYS[1], 'kind', held[1], 'token', held[2])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return 1
"""
)

_DROP = Script("return redis.call('UNLINK', KEYS[1])")


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis says of an answer."""

    token: bytes  # of its scope
    value: bytes | None = None
    left_s: float = 0.0  # how long it may be served


class SharedTier:
    """Answers in Redis."""

    def __init__(self, redis: Redis, wall_clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._wall_clock = wall_clock

    async def look(self, asked: Asked, ttl_s: float, known_token: bytes) -> Found | Absent:
        """The token of its scope, and the answer, if there is one; not the answer when the token is `known_token`."""
        fresh = secrets.token_bytes(16)
        reply = await self._redis.run(
            _LOOK, _keys(asked), [_field(asked), fresh, _seconds(ttl_s), known_token, KIND_TOKEN_S]
        )
        if reply is ABSENT:
            return ABSENT
        assert isinstance(reply, list)
        token, packed = reply[0], reply[1] if len(reply) > 1 else None
        assert isinstance(token, bytes)
        if not isinstance(packed, bytes):
            return Found(token)
        left_s = min(ttl_s, _EXPIRES.unpack_from(packed)[0] - self._wall_clock())  # servers' clocks may differ
        return Found(token, packed[_EXPIRES.size :], left_s) if left_s > 0 else Found(token)

    async def keep(self, asked: Asked, ttl_s: float, token: bytes, value: bytes) -> bool | Absent:
        """Keeps an answer that was computed after `token` was read; False when it has been invalidated since."""
        if len(value) > VALUE_BYTES_MAX:
            return ABSENT
        packed = _EXPIRES.pack(self._wall_clock() + ttl_s) + value
        fields_max = SCOPE_FIELDS_MAX + 2  # the tokens are fields, too
        reply = await self._redis.run(
            _KEEP, _keys(asked)[1:], [_field(asked), token, packed, _seconds(ttl_s), fields_max]
        )
        return ABSENT if reply is ABSENT else reply == 1

    async def drop(self, scopes: list[tuple[str, str, str | None]]) -> list[bool]:
        """Invalidates (tenant, kind, scope), or a whole kind where scope is None; for each whether Redis did it."""
        calls = [
            Call([_kind_key(tenant, kind) if scope is None else _scope_key((tenant, kind, scope))], ())
            for tenant, kind, scope in scopes
        ]
        return [reply is not ABSENT for reply in await self._redis.run_many(_DROP, calls)]


def _keys(asked: Asked) -> list[str]:
    own = (
        _scope_key(asked.scope_key) if asked.scope else key_of("answer", asked.tenant, asked.kind, _field(asked).hex())
    )
    return [_kind_key(asked.tenant, asked.kind), own]


def _kind_key(tenant: str, kind: str) -> str:
    return key_of("answers", tenant, kind)


def _scope_key(scope: ScopeKey) -> str:
    return key_of("answers", *scope)


def _field(asked: Asked) -> bytes:
    version = asked.version.encode()
    digest = hashlib.blake2b(len(version).to_bytes(4, "big") + version + asked.key, digest_size=16)
    return b"=" + digest.digest()  # no other field begins so


def _seconds(ttl_s: float) -> int:
    return max(1, int(ttl_s + 0.999))
