"""Whom to forget, told without naming them.

A forgetting stands in the commit log until long after it ended, and ClickHouse keeps the text of statements (in its
query log, and in the files of mutations). So neither has the user's id, only keyed hashes of it; rows are found by
hashing what they hold. The key is made for one forgetting, so no two of them can be told to be of the same user; but
who has the log can try whether a user that they think of is the one.

To hash two columns of 5 million rows took 1.3 s where to compare them took 0.12.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from penstock.queries.printing import text
from penstock.storage.engine import Engine, Lane
from penstock.storage.payload import literal

KEY_BYTES = 16

# Texts of people go to the engine as hexadecimals, because an error may quote the statement.
_HASHES = """
SELECT hex({named}) AS user, hex({visitor}) AS visitor, hex({written}) AS written
"""


@dataclass(frozen=True, slots=True)
class Person:
    """A user of a tenant, as keyed hashes."""

    tenant: str
    key: str  # all of these in hexadecimals
    user: str  # of the id
    visitor: str  # of the number by which gold_visits knows a visitor of that id
    written: str  # of the id as it stands in a statement's text, between the quotes
    raw: str  # of the id, by BLAKE2b instead of SipHash: for rows that this process reads

    @classmethod
    async def named(cls, engine: Engine, tenant: str, user_id: str) -> Self:
        """The user, under a new key."""
        key = secrets.token_hex(KEY_BYTES)
        plain, printed = (f"unhex('{each.encode().hex()}')" for each in (user_id, text(user_id)[1:-1]))
        sql = _HASHES.format(
            named=_hashed(key, plain), visitor=_hashed(key, f"sipHash64({plain})"), written=_hashed(key, printed)
        )
        found = (await engine.rows(sql, lane=Lane.PIPELINE))[0]
        return cls(tenant, key, found["user"], found["visitor"], found["written"], _blake(key, user_id))

    @classmethod
    def told(cls, detail: Mapping[str, Any]) -> Self:
        """The user that a log row is about."""
        return cls(**{name: detail[name] for name in cls.__slots__})

    def detail(self) -> dict[str, str]:
        """What a log row says of the user."""
        return asdict(self)

    def hashes(self, expression: str) -> str:
        """SQL: the keyed hash of a text, or of a visitor's number."""
        return _hashed(self.key, expression)

    def is_user(self, column: str) -> str:
        """SQL that holds where `column` is the user's id."""
        return f"{self.hashes(column)} = unhex('{self.user}')"

    def is_visitor(self, column: str) -> str:
        """SQL that holds where `column` is the number by which gold_visits knows them."""
        return f"{self.hashes(column)} = unhex('{self.visitor}')"

    def is_raw(self, name: str) -> bool:
        """Whether a name that this process has read is the user's id."""
        return hmac.compare_digest(_blake(self.key, name), self.raw)


@dataclass(frozen=True, slots=True)
class Forgetting:
    """A user, and which rows of theirs go: those that were there when it began."""

    person: Person
    commit: int  # of the log row that says so
    time: datetime  # of that row
    run: int  # the newest run of then

    @property
    def mine(self) -> str:
        """SQL: the tenant's rows."""
        return f"tenant = {literal(self.person.tenant)}"

    @property
    def events(self) -> str:
        """SQL that holds for the user's rows of bronze and silver."""
        return f"({self.mine} AND commit <= {self.commit:d} AND {self._names('user_id', 'visitor_id')})"

    @property
    def other_events(self) -> str:
        """SQL that holds for the rows of bronze and silver that the tenant has besides."""
        return f"({self.mine} AND NOT (commit <= {self.commit:d} AND {self._names('user_id', 'visitor_id')}))"

    @property
    def sessions(self) -> str:
        """SQL that holds for rows of sessions that name the user.

        Rows of later runs may be of a new user with the same id, who came while this was interrupted; or they were made
        of the old one's events, and are found by these.
        """
        return f"({self.mine} AND run <= {self.run:d} AND {self.person.is_user('visitor')})"

    @property
    def visits(self) -> str:
        """SQL that holds for rows of gold_visits that are of the user, likewise."""
        return f"({self.mine} AND run <= {self.run:d} AND {self.person.is_visitor('visitor')})"

    def _names(self, *columns: str) -> str:
        return f"({' OR '.join(self.person.is_user(column) for column in columns)})"


def _hashed(key: str, expression: str) -> str:
    halves = (int.from_bytes(half) for half in (bytes.fromhex(key)[:8], bytes.fromhex(key)[8:]))
    return f"sipHash128Keyed(({', '.join(f'toUInt64({half})' for half in halves)}), {expression})"


def _blake(key: str, name: str) -> str:
    # What was a lone surrogate in JSON is no text of Unicode; it is nobody's id, and must not stop the others.
    return hashlib.blake2b(name.encode(errors="replace"), key=bytes.fromhex(key), digest_size=KEY_BYTES).hexdigest()
