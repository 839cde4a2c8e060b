"""Passwords: argon2id, on one thread of their own, and at the same price whether there is such a user or not."""

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from penstock.accounts.bounds import (
    ARGON2_MEMORY_KIB,
    ARGON2_TIME_COST,
    PASSWORD_CHARS_MAX,
    PASSWORD_CHARS_MIN,
    PASSWORD_NAME_CHARS_MIN,
    PASSWORDS_WAITING_MAX,
)
from penstock.errors import Overloaded, invalid_field

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a password."""

    right: bool
    rehashed: str = field(default="", repr=False)  # to be kept instead, where parameters changed since


def check_policy(name: str, password: str) -> None:
    """Raises InvalidInput (INVALID_PASSWORD) for a password that a user of this name may not have."""
    chars = len(unicodedata.normalize("NFC", password))
    if not PASSWORD_CHARS_MIN <= chars <= PASSWORD_CHARS_MAX:
        raise invalid_field(
            "password", f"{PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters", reason="INVALID_PASSWORD"
        )
    if len(name) >= PASSWORD_NAME_CHARS_MIN and name.casefold() in password.casefold():
        raise invalid_field("password", "not with the user's name in it", reason="INVALID_PASSWORD")


class Passwords:
    """Hashes and verifies. One thread: a hash takes much memory, and others need the cores."""

    def __init__(
        self,
        *,
        time_cost: int = ARGON2_TIME_COST,
        memory_kib: int = ARGON2_MEMORY_KIB,
        waiting_max: int = PASSWORDS_WAITING_MAX,
    ) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        # Looks like a hash of these parameters and is none: it takes as long to verify, and nothing matches it.
        salt, nothing = _base64(secrets.token_bytes(16)), _base64(secrets.token_bytes(32))
        self._nobody = f"$argon2id$v=19$m={memory_kib},t={time_cost},p=1${salt}${nothing}"
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._waiting_max = waiting_max
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """What is kept of a password. Raises Overloaded (TOO_MANY_SIGN_INS)."""
        return await self._run(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, stored: str, password: str) -> Verdict:
        """Whether it is the password that `stored` was made of; where that is empty, none is, at the same price.

        Raises Overloaded (TOO_MANY_SIGN_INS).
        """
        return await self._run(lambda: self._verified(stored, _bytes(password)))

    def close(self) -> None:
        """Ends the thread; what waits for it is cancelled."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _verified(self, stored: str, password: bytes) -> Verdict:
        try:
            self._hasher.verify(stored or self._nobody, password)
        except VerifyMismatchError:
            return Verdict(right=False)
        except (VerificationError, InvalidHashError):
            log.error("a stored password hash cannot be read")
            return Verdict(right=False)
        if self._hasher.check_needs_rehash(stored):
            return Verdict(right=True, rehashed=self._hasher.hash(password))
        return Verdict(right=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._waiting_max:
            raise Overloaded("too many sign-ins at once", reason="TOO_MANY_SIGN_INS", retry_after_s=1.0)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        future = self._executor.submit(work)

        def left() -> None:
            self._waiting -= 1

        def ended(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(left)

        # When the thread is done with it, not when the caller went away: until then it takes a place.
        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)


def _bytes(password: str) -> bytes:
    """As hashed: keyboards differ in how they compose an é."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
