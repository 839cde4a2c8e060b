"""Users, API keys and identities, and how they may be named."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from penstock.accounts.bounds import LABEL_CHARS_MAX
from penstock.errors import invalid_field
from penstock.rpc.principal import ROLES, names_of

_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,254}")


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who signs in. Names are in lower case and unique across tenants."""

    tenant: str
    name: str
    password_hash: str = field(repr=False)  # empty: signs in through the OpenID provider alone
    roles: frozenset[int]  # as given, of `principal.ROLES`
    email: str
    subject: str  # who it is to the OpenID provider; empty: never signed in there
    disabled: bool
    valid_from: datetime  # sessions that began then or before do not hold
    created: datetime
    created_by: str
    changed: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential of a program. It stays when its maker is disabled: it is the tenant's."""

    id: str
    tenant: str
    name: str  # a label, for people
    roles: frozenset[int]
    secret_hash: str = field(repr=False)
    created_by: str
    created: datetime
    expires: datetime | None
    last_used: datetime | None  # to the hour, or to this server's last call with it
    revoked: datetime | None  # when it was; None: it was not

    def holds(self, moment: datetime) -> bool:
        """Whether it can be used then."""
        return self.revoked is None and (self.expires is None or moment < self.expires)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the OpenID provider says that somebody is."""

    email: str  # verified, allowed, and in lower case
    subject: str  # the provider's own name for it, with the provider's
    tenant: str  # where it gets a user at its first sign-in,
    roles: frozenset[int]  # and which


def tenant_name(text: str) -> str:
    """`text`, when a tenant may be called so. Raises InvalidInput."""
    if not _TENANT.fullmatch(text):
        raise invalid_field(
            "tenant", "1 to 63 of a-z, 0-9, _ and -, the first a letter or digit", reason="INVALID_TENANT"
        )
    return text


def user_name(text: str) -> str:
    """`text` in lower case, when a user may be called so: Bob and bob are one. Raises InvalidInput."""
    if not _USER.fullmatch(text):
        raise invalid_field(
            "name", "1 to 255 of a-z, 0-9, and . _ @ + -, the first a letter or digit", reason="INVALID_NAME"
        )
    return text.lower()


def label(text: str) -> str:
    """`text` without space around it, when a key may be called so. Raises InvalidInput."""
    text = text.strip()
    if not 1 <= len(text) <= LABEL_CHARS_MAX or not text.isprintable():
        raise invalid_field("name", f"1 to {LABEL_CHARS_MAX} printable characters", reason="INVALID_NAME")
    return text


def given_roles(roles: Iterable[int]) -> frozenset[int]:
    """Roles that can be given, one at least. Raises InvalidInput."""
    given = frozenset(roles)
    if not given or not given <= frozenset(ROLES.values()):
        raise invalid_field("roles", f"one or more of {', '.join(ROLES)}", reason="INVALID_ROLE")
    return given


def roles_named(names: Iterable[str]) -> frozenset[int]:
    """Roles by the names that people use. Raises InvalidInput."""
    return given_roles(ROLES.get(name.strip().lower(), -1) for name in names)


def roles_text(roles: Iterable[int]) -> str:
    """Roles as they are stored."""
    return ",".join(names_of(roles))


def roles_of(text: str | None) -> frozenset[int]:
    """Roles as they were stored. One that this version does not know gives nothing."""
    return frozenset(ROLES[name] for name in (text or "").split(",") if name in ROLES)
