"""Who calls: found out from a call's credential, the same way for every rpc."""

from collections.abc import Mapping
from typing import Protocol

from penstock.errors import Unauthenticated
from penstock.rpc.principal import ANONYMOUS, OPEN, Principal

CREDENTIAL_CHARS_MAX = 4_096  # an access token has some 500
BEARER = "bearer "


class Credentials(Protocol):
    """Knows what credentials are worth."""

    def known(self, credential: str) -> Principal | None:
        """Whose it is, if it was looked at lately and still holds."""
        ...

    def principal_of(self, credential: str) -> Principal:
        """Whose it is. Raises Unauthenticated."""
        ...


class Access:
    """Tells who calls. `required`: whether who brings no credential is nobody, or else the one who runs the server."""

    def __init__(self, credentials: Credentials, *, required: bool) -> None:
        self._credentials = credentials
        self._without = ANONYMOUS if required else OPEN
        self.required = required

    def principal(self, metadata: Mapping[str, str]) -> Principal:
        """Who calls. Raises Unauthenticated when a credential is there and does not hold."""
        credential = credential_of(metadata)
        if credential is None:
            return self._without
        return self._credentials.known(credential) or self._credentials.principal_of(credential)


def credential_of(metadata: Mapping[str, str]) -> str | None:
    """The credential of a call; None when it brings none. Raises Unauthenticated for one that is in no known form."""
    given = metadata.get("authorization")
    if given is not None:
        if given[: len(BEARER)].lower() != BEARER:
            raise Unauthenticated(
                "authorization must be `Bearer` and an API key or an access token", reason="CREDENTIAL_UNKNOWN"
            )
        given = given[len(BEARER) :].strip()
    key = metadata.get("x-api-key")
    if given is not None and key is not None and key != given:
        raise Unauthenticated("authorization and x-api-key differ: send one of them", reason="CREDENTIAL_AMBIGUOUS")
    found = key if given is None else given
    if found is not None and not 0 < len(found) <= CREDENTIAL_CHARS_MAX:
        raise Unauthenticated("the credential is empty or too long", reason="CREDENTIAL_UNKNOWN")
    return found
