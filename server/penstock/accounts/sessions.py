"""Sessions of users, and the refresh tokens that carry them on: `rt_<session>_<generation>_<secret>`.

Each use of a refresh token gives the next one. Whoever brings an old one has a copy of it, or the one who brought it
first had: nobody can tell which, so the session ends for both.
"""

import asyncio
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import structlog

from penstock.accounts.bounds import (
    ACCESS_S,
    CREDENTIAL_CHARS_MAX,
    FOLLOW_OVERLAP_S,
    LEEWAY_S,
    REFRESH_S,
    REVOKED_SESSIONS_MAX,
)
from penstock.accounts.secret_text import SECRET_CHARS, digest, drawn, same
from penstock.errors import Overloaded, Unauthenticated
from penstock.storage.engine import Engine, Lane, Row

log = structlog.get_logger()

SESSION_CHARS = 20  # 119 bits
_TOKEN = re.compile(
    rf"rt_(?P<session>[0-9A-Za-z]{{{SESSION_CHARS}}})_(?P<generation>[1-9][0-9]{{0,8}})"
    rf"_(?P<secret>[0-9A-Za-z]{{{SECRET_CHARS}}})"
)

_FAMILY = """
SELECT tenant, user, generation, secret_hash, started, expires, revoked
FROM sign_in_sessions
WHERE session = {session:String}
ORDER BY generation
"""
_REVOKED = """
SELECT session, max(toUnixTimestamp64Micro(stored)) AS newest
FROM sign_in_sessions
WHERE revoked AND stored >= fromUnixTimestamp64Micro({since:Int64})
GROUP BY session
"""
_TIME = pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("session", pa.string()),
        ("generation", pa.uint32()),
        ("user", pa.string()),
        ("secret_hash", pa.string()),
        ("started", _TIME),
        ("expires", _TIME),
        ("revoked", pa.uint8()),
    ]
)
# As long as an access token can live that was given just before its session ended, by a clock that is ahead.
_REMEMBERED_S = ACCESS_S + 2 * LEEWAY_S


@dataclass(frozen=True, slots=True)
class Session:
    """A user's session, with the refresh token that carries it on."""

    id: str
    tenant: str
    user: str
    started: datetime
    refresh_token: str = field(repr=False)


class Sessions:
    """Begins, carries on and ends sessions. Any server may; there is no compare-and-set among them."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now
        self._revoked: dict[str, float] = {}  # the session, and until when to remember; soonest first
        self._newest = 0  # microseconds: when the newest row was stored that ended one
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def is_revoked(self, session: str) -> bool:
        """Whether a session ended before its access tokens did."""
        return session in self._revoked

    async def begin(self, tenant: str, user: str, after: datetime) -> Session:
        """A new session, that began behind `after`. Raises Unavailable, TimedOut."""
        # Behind it even where this server's clock is late: the user has just proved who it is.
        started = max(self._now(), after + timedelta(microseconds=1))
        return await self._next(drawn(SESSION_CHARS), 1, tenant, user, started)

    async def rotate(self, token: str) -> Session:
        """The session of a refresh token, with its next token.

        Raises Unauthenticated: REFRESH_TOKEN_INVALID, REFRESH_TOKEN_EXPIRED, SESSION_ENDED, and REFRESH_TOKEN_REUSED,
        which ends the session; Unavailable, TimedOut.
        """
        match = _TOKEN.fullmatch(token) if len(token) <= CREDENTIAL_CHARS_MAX else None
        if match is None:
            raise _invalid()
        session, generation = match["session"], int(match["generation"])
        lock = self._locks.setdefault(session, asyncio.Lock())
        async with lock:
            rows = await self._family(session)
            row = _row_of(rows, generation, match["secret"])
            if self.is_revoked(session) or any(each["revoked"] for each in rows):
                raise session_ended()
            if generation < max(each["generation"] for each in rows):
                raise await self._reused(session, row)
            if _utc(row["expires"]) <= self._now():
                raise Unauthenticated("the refresh token has expired: sign in again", reason="REFRESH_TOKEN_EXPIRED")
            following = await self._next(session, generation + 1, row["tenant"], row["user"], _utc(row["started"]))
            # Another server may have done the same with the same token: whoever looks last sees both rows.
            rows = await self._family(session)
            if sum(each["generation"] == generation + 1 for each in rows) > 1:
                raise await self._reused(session, row)
            if any(each["revoked"] for each in rows):
                raise session_ended()
            return following

    async def revoke(self, session: str) -> None:
        """Ends a session, for good; one that is not there is ended already.

        Raises Overloaded (TOO_MANY_SIGN_OUTS), Unavailable, TimedOut.
        """
        rows = await self._family(session)
        if rows and not any(each["revoked"] for each in rows):
            await self._end(session, rows[0])

    async def refresh(self) -> None:
        """Sees which sessions other servers ended. Raises Unavailable, TimedOut."""
        now = self._now()
        oldest = int((now.timestamp() - _REMEMBERED_S) * 1e6)
        since = max(oldest, self._newest - int(FOLLOW_OVERLAP_S * 1e6))
        for row in await self._engine.rows(_REVOKED, {"since": since}):
            self._remember(row["session"])
            self._newest = max(self._newest, int(row["newest"]))
        self._forget()

    async def _next(self, session: str, generation: int, tenant: str, user: str, started: datetime) -> Session:
        secret = drawn(SECRET_CHARS)
        row = {
            "tenant": tenant,
            "session": session,
            "generation": generation,
            "user": user,
            "secret_hash": digest(secret),
            "started": started,
            "expires": self._now() + timedelta(seconds=REFRESH_S),
            "revoked": 0,
        }
        await self._append(row)
        return Session(session, tenant, user, started, f"rt_{session}_{generation}_{secret}")

    async def _reused(self, session: str, row: Row) -> Unauthenticated:
        log.warning("a refresh token was used again: its session ends", tenant=row["tenant"], user=row["user"])
        await self._end(session, row)
        return Unauthenticated(
            "the refresh token was used before, so its session ended: sign in again", reason="REFRESH_TOKEN_REUSED"
        )

    async def _end(self, session: str, row: Row) -> None:
        self._forget()
        if len(self._revoked) >= REVOKED_SESSIONS_MAX:
            raise Overloaded("too many sessions end at once", reason="TOO_MANY_SIGN_OUTS", retry_after_s=60.0)
        # First here: should it not be stored, this server at least takes its tokens no more.
        self._remember(session)
        ended = {
            "tenant": row["tenant"],
            "session": session,
            "generation": 0,
            "user": row["user"],
            "secret_hash": "",
            "started": _utc(row["started"]),
            "expires": self._now() + timedelta(seconds=REFRESH_S),
            "revoked": 1,
        }
        await asyncio.shield(self._append(ended))

    def _remember(self, session: str) -> None:
        if session not in self._revoked:
            self._revoked[session] = self._now().timestamp() + _REMEMBERED_S

    def _forget(self) -> None:
        now = self._now().timestamp()
        while self._revoked:
            session, until = next(iter(self._revoked.items()))
            if until > now:
                return
            del self._revoked[session]

    async def _family(self, session: str) -> list[Row]:
        return await self._engine.rows(_FAMILY, {"session": session})

    async def _append(self, row: dict[str, Any]) -> None:
        await self._engine.insert_arrow("sign_in_sessions", pa.Table.from_pylist([row], _SCHEMA), lane=Lane.COMMIT)


def _row_of(rows: list[Row], generation: int, secret: str) -> Row:
    """The row of a token. Without its secret nobody learns anything of a session, and nobody ends one."""
    hashed = digest(secret)
    for row in rows:
        if row["generation"] == generation and same(row["secret_hash"], hashed):
            return row
    raise _invalid()


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC)


def _invalid() -> Unauthenticated:
    return Unauthenticated("the refresh token does not hold: sign in again", reason="REFRESH_TOKEN_INVALID")


def session_ended() -> Unauthenticated:
    """What a refresh token of a session is told that holds no more."""
    return Unauthenticated("the session has ended: sign in again", reason="SESSION_ENDED")
