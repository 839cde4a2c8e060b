"""Who calls: what a credential says of whoever holds it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache

from penstock.access.v1 import access_pb2
from penstock.errors import PermissionDenied

DEFAULT_TENANT = "default"

# The roles that can be given, each with those right below it. VIEWER and INGESTER stand side by side: who writes need
# not read.
_BELOW: dict[int, tuple[int, ...]] = {
    access_pb2.ROLE_VIEWER: (),
    access_pb2.ROLE_INGESTER: (),
    access_pb2.ROLE_ANALYST: (access_pb2.ROLE_VIEWER, access_pb2.ROLE_INGESTER),
    access_pb2.ROLE_OPERATOR: (access_pb2.ROLE_ANALYST,),
    access_pb2.ROLE_ADMIN: (access_pb2.ROLE_OPERATOR,),
}
# The same by the name that people use: `viewer` for ROLE_VIEWER.
ROLES: dict[str, int] = {access_pb2.Role.Name(number).removeprefix("ROLE_").lower(): number for number in _BELOW}


class Kind(Enum):
    """How a caller became known."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and each call asks for it

    OPEN = "open"  # nobody has to: the server runs for whoever reaches it
    ANONYMOUS = "anonymous"  # without a credential, where one is required
    USER = "user"  # an access token
    KEY = "key"  # an API key


WITH_CREDENTIAL = frozenset({Kind.USER, Kind.KEY})


@dataclass(frozen=True, slots=True)
class Principal:
    """One caller. The tenant comes from here and from nowhere else."""

    kind: Kind
    tenant: str
    name: str  # of the user, or the key's id; empty for nobody in particular
    roles: frozenset[int]  # as given
    allowed: frozenset[int]  # all roles whose rpcs it may call
    session: str = ""  # of an access token: what signing out ends
    expires: float | None = None  # seconds since 1970; None for what does not expire

    @property
    def caller(self) -> str:
        """Who it is, in one word: for windows of limits, and for logs."""
        return f"{self.kind.value}:{self.tenant}/{self.name}"

    def require(self, role: int, method: str) -> None:
        """Raises PermissionDenied when it may not call what needs `role`."""
        if role not in self.allowed:
            needed = access_pb2.Role.Name(role).removeprefix("ROLE_").lower()
            held = ", ".join(names_of(self.roles)) or "none"
            raise PermissionDenied(
                f"{method.rpartition('/')[2]} needs the role {needed}; yours: {held}",
                reason="ROLE_MISSING",
                metadata={"role": needed},
            )


def principal(
    kind: Kind, tenant: str, name: str, roles: Iterable[int], *, session: str = "", expires: float | None = None
) -> Principal:
    """A caller with these roles, and what follows from them."""
    given = frozenset(roles)
    allowed = allowed_by(given)
    if kind is not Kind.ANONYMOUS:
        allowed |= {access_pb2.ROLE_CREDENTIAL}
    return Principal(kind, tenant, name, given, allowed, session, expires)


@cache
def allowed_by(roles: frozenset[int]) -> frozenset[int]:
    """All roles whose rpcs a holder of `roles` may call. Anybody may call what needs none."""
    found: set[int] = {access_pb2.ROLE_ANONYMOUS}
    waiting = list(roles)
    while waiting:
        role = waiting.pop()
        found.add(role)
        waiting += _BELOW[role]
    return frozenset(found)


def names_of(roles: Iterable[int]) -> list[str]:
    """Roles as people name them, least first."""
    return [name for name, number in ROLES.items() if number in set(roles)]


# Whoever reaches a server that requires nothing, and whoever brings no credential to one that does.
OPEN = principal(Kind.OPEN, DEFAULT_TENANT, "", [access_pb2.ROLE_ADMIN])
ANONYMOUS = principal(Kind.ANONYMOUS, DEFAULT_TENANT, "", [])
# Before it is known who calls, and for good where a credential does not hold: of no tenant.
NOBODY = principal(Kind.ANONYMOUS, "", "", [])
