"""Accounts, as the rest of Penstock sees them: whose a credential is, signing in and out, users and keys.

Who may call what is declared in the contract and enforced before any of this runs. What is enforced here is that nobody
reaches into another tenant, gives roles beyond its own, or changes a user who has such.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import structlog
from joserfc.jwk import KeySetSerialization

from penstock.accounts import api_keys
from penstock.accounts.attempts import Attempts
from penstock.accounts.bounds import EMAIL_CHARS_MAX, KEY_EXPIRES_S_MAX, LEEWAY_S
from penstock.accounts.credentials import Credentials
from penstock.accounts.model import ApiKey, Identity, User, given_roles, label, tenant_name, user_name
from penstock.accounts.password_check import PasswordCheck
from penstock.accounts.passwords import Passwords, check_policy
from penstock.accounts.secret_text import digest
from penstock.accounts.sessions import Session, session_ended
from penstock.accounts.signing import SigningKeys
from penstock.accounts.store import AccountStore
from penstock.accounts.stored_users import UserChange, user_exists
from penstock.accounts.tokens import AccessTokens
from penstock.errors import NotFound, PenstockError, PermissionDenied, invalid_field
from penstock.rpc.principal import ROLES, Kind, Principal, principal
from penstock.settings import Settings
from penstock.storage.engine import Engine

log = structlog.get_logger()

ISSUER = "penstock"  # of access tokens, where no public address is set
_BEGINNING = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What who signed in goes on with."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    expires_in_s: int  # of the access token
    principal: Principal


def console(tenant: str) -> Principal:
    """Whoever runs commands on the server itself: may do everything in any tenant. Raises InvalidInput."""
    return principal(Kind.OPEN, tenant_name(tenant), "", [ROLES["admin"]])


class Accounts:
    """Users, keys and sessions of all tenants."""

    def __init__(
        self,
        store: AccountStore,
        keys: SigningKeys,
        passwords: Passwords,
        *,
        issuer: str = ISSUER,
        attempts: Attempts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self.keys = keys
        self._passwords = passwords
        self._password_check = PasswordCheck(store.users, passwords, attempts or Attempts())
        self._clock = clock
        self._tokens = AccessTokens(keys, issuer, clock)
        self._credentials = Credentials(store, self._tokens, keys, clock)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, engine: Engine, settings: Settings) -> AsyncIterator[Self]:
        """The accounts in a database, with the signing keys of the settings, which are made where there are none.

        Raises Conflict (SIGNING_FILE), Unavailable, TimedOut.
        """
        keys = SigningKeys.load_or_create(settings.signing_keys_file)
        accounts = cls(AccountStore(engine), keys, Passwords(), issuer=settings.public_url.rstrip("/") or ISSUER)
        try:
            await accounts.open()
            yield accounts
        finally:
            await accounts.close()

    async def open(self) -> None:
        """Reads what is there. Raises Unavailable, TimedOut."""
        await self._store.open()

    async def follow(self) -> None:
        """Keeps up with other servers, and stores when keys were used, until cancelled."""
        await self._store.follow()

    async def close(self) -> None:
        """Stores what waits to be, and ends."""
        self._passwords.close()
        with contextlib.suppress(PenstockError):  # when keys were last used is no more than good to know
            await self._store.keys.write_uses()

    # --- whose a credential is ----------------------------------------

    def known(self, credential: str) -> Principal | None:
        """Whose it is, if it was verified lately and still holds; a few microseconds. None: ask `principal_of`."""
        return self._credentials.known(credential)

    def principal_of(self, credential: str) -> Principal:
        """Whose it is, an API key or an access token. Raises Unauthenticated, see `Credentials.principal_of`."""
        return self._credentials.principal_of(credential)

    def public_keys(self) -> KeySetSerialization:
        """The keys by which anybody can verify access tokens, as a JSON Web Key Set."""
        return self.keys.jwks()

    # --- signing in and out ----------------------------------------

    async def sign_in(self, name: str, password: str, *, address: str = "") -> Tokens:
        """Tokens for a user. The same error, at the same price, for a wrong password and for no such user.

        Raises Unauthenticated (WRONG_CREDENTIALS), Overloaded (TOO_MANY_ATTEMPTS, TOO_MANY_SIGN_INS), Unavailable.
        """
        user = await self._password_check.verified(name, password, address)
        return self._given(user, await self._store.sessions.begin(user.tenant, user.name, user.valid_from))

    async def refresh(self, token: str) -> Tokens:
        """The next tokens of a session. Raises as `Sessions.rotate`."""
        session = await self._store.sessions.rotate(token)
        user = self._store.users.get(session.user)
        if user is None or user.tenant != session.tenant or user.disabled or session.started <= user.valid_from:
            await self._store.sessions.revoke(session.id)
            raise session_ended()
        return self._given(user, session)

    async def sign_out(self, session: str) -> None:
        """Ends a session: its tokens hold no more. Raises Overloaded, Unavailable, TimedOut."""
        await self._store.sessions.revoke(session)

    async def sign_in_as(self, identity: Identity) -> Tokens:
        """Tokens for whom the OpenID provider vouches for; who is new here becomes a user.

        Raises PermissionDenied (SIGN_IN_REFUSED), Overloaded (TOO_MANY_USERS), Unavailable, TimedOut.
        """
        user = await self._user_of(identity)
        return self._given(user, await self._store.sessions.begin(user.tenant, user.name, user.valid_from))

    # --- users ----------------------------------------

    async def create_user(
        self, by: Principal, name: str, password: str, roles: Iterable[int], *, email: str = ""
    ) -> User:
        """A new user of the caller's tenant; without a password it signs in through the OpenID provider alone.

        Raises InvalidInput, PermissionDenied (ROLE_MISSING), AlreadyStored (USER_EXISTS), Overloaded (TOO_MANY_USERS,
        TOO_MANY_SIGN_INS), Unavailable, TimedOut.
        """
        tenant, name, given = tenant_name(by.tenant), user_name(name), _allowed_roles(by, roles)
        if len(email) > EMAIL_CHARS_MAX or not email.isprintable():
            raise invalid_field("email", f"{EMAIL_CHARS_MAX} printable characters at most")
        if password:
            check_policy(name, password)
        if self._store.users.get(name) is not None:  # before the price of a hash; the store looks again
            raise user_exists()
        hashed = await self._passwords.hash(password) if password else ""
        user = await self._store.users.add(self._new_user(tenant, name, given, by.name, hashed, email))
        log.info("a user was made", tenant=user.tenant, user=name, by=by.caller)
        return user

    async def update_user(
        self,
        by: Principal,
        name: str,
        *,
        roles: Iterable[int] | None = None,
        password: str | None = None,
        disabled: bool | None = None,
    ) -> User:
        """Changes what is given of a user of the caller's tenant, all of it or nothing, and ends its sessions.

        Raises InvalidInput, NotFound (USER_NOT_FOUND), PermissionDenied (ROLE_MISSING), Overloaded, Unavailable.
        """
        user = self._changeable(by, name)
        changes = UserChange()
        if roles is not None:
            changes["roles"] = _allowed_roles(by, roles)
        if disabled is not None:
            changes["disabled"] = disabled
        if password is not None:
            check_policy(user.name, password)
            changes["password_hash"] = await self._passwords.hash(password)
        if not changes:
            return user
        log.info("a user is changed", tenant=user.tenant, user=user.name, by=by.caller, changes=sorted(changes))
        # Ahead of all clocks: another server's may be, and it goes on for a moment with what it knew. Sessions that
        # begin from now on are dated behind it.
        changes["valid_from"] = self._now() + timedelta(seconds=LEEWAY_S)
        return await self._store.users.change(user.name, **changes)

    async def delete_user(self, by: Principal, name: str) -> None:
        """Removes a user, and ends its sessions; the name is free again. Raises as `update_user`."""
        user = self._changeable(by, name)
        await self._store.users.remove(user.name)
        log.info("a user was deleted", tenant=user.tenant, user=user.name, by=by.caller)

    def get_user(self, tenant: str, name: str) -> User:
        """A user of the tenant. Raises NotFound (USER_NOT_FOUND)."""
        user = self._store.users.get(name.lower())
        if user is None or user.tenant != tenant:
            raise NotFound("there is no such user", reason="USER_NOT_FOUND")
        return user

    def list_users(self, tenant: str) -> list[User]:
        """The tenant's users, by name."""
        return self._store.users.of(tenant)

    # --- API keys ----------------------------------------

    async def create_key(
        self, by: Principal, name: str, roles: Iterable[int], expires: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """A new key of the caller's tenant, and its text, which is to be had this once.

        Raises InvalidInput, PermissionDenied (ROLE_MISSING), Overloaded (TOO_MANY_KEYS), Unavailable, TimedOut.
        """
        name, given, now = label(name), _allowed_roles(by, roles), self._now()
        if expires is not None and not now < expires <= now + timedelta(seconds=KEY_EXPIRES_S_MAX):
            raise invalid_field("expires", "it has to lie ahead, by a hundred years at most")
        parts = api_keys.minted()
        key = ApiKey(
            parts.id, by.tenant, name, given, digest(parts.secret), by.name, now, expires, last_used=None, revoked=None
        )
        key = await self._store.keys.add(key)
        log.info("an API key was made", tenant=key.tenant, key=key.id, by=by.caller)
        return key, parts.text

    def list_keys(self, tenant: str) -> list[ApiKey]:
        """The tenant's keys, oldest first; those that no longer hold are listed for another month."""
        return self._store.keys.of(tenant)

    async def revoke_key(self, tenant: str, key_id: str) -> ApiKey:
        """Ends a key of the tenant, for good. Raises NotFound (API_KEY_NOT_FOUND), Unavailable, TimedOut."""
        key = self._store.keys.get(key_id)
        if key is None or key.tenant != tenant:
            raise NotFound("there is no such key", reason="API_KEY_NOT_FOUND")
        log.info("an API key was revoked", tenant=tenant, key=key_id)
        return await self._store.keys.revoke(key_id)

    # --- within ----------------------------------------

    def _given(self, user: User, session: Session) -> Tokens:
        access, expires = self._tokens.given(user, session)
        caller = principal(Kind.USER, user.tenant, user.name, user.roles, session=session.id, expires=expires)
        return Tokens(access, session.refresh_token, int(expires - self._clock()), caller)

    async def _user_of(self, identity: Identity) -> User:
        name = user_name(identity.email)
        user = self._store.users.get(name)
        if user is None:
            made = self._new_user(identity.tenant, name, identity.roles, "", "", identity.email, identity.subject)
            log.info("a user was made at its first sign-in", tenant=identity.tenant, user=name)
            return await self._store.users.add(made)
        # An address may be given to somebody else in time; the subject is not.
        if user.disabled or user.tenant != identity.tenant or user.subject not in ("", identity.subject):
            raise PermissionDenied("this user may not sign in through the OpenID provider", reason="SIGN_IN_REFUSED")
        return user if user.subject else await self._store.users.change(name, subject=identity.subject)

    def _changeable(self, by: Principal, name: str) -> User:
        """The user of this name, if it is the caller's to change. Who may not give a role may not disable whoever has
        it either, nor set the password by which to become it."""
        user = self.get_user(by.tenant, name)
        _allowed_roles(by, user.roles)
        return user

    def _new_user(
        self, tenant: str, name: str, roles: frozenset[int], by: str, hashed: str, email: str, subject: str = ""
    ) -> User:
        now = self._now()
        return User(tenant, name, hashed, roles, email, subject, False, _BEGINNING, now, by, now)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _allowed_roles(by: Principal, roles: Iterable[int]) -> frozenset[int]:
    given = given_roles(roles)
    for name, number in ROLES.items():
        if number in given - by.allowed:
            raise PermissionDenied(
                f"nobody gives, or changes who has, a role beyond its own: {name}",
                reason="ROLE_MISSING",
                metadata={"role": name},
            )
    return given
