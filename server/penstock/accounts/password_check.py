"""Whether somebody is the user that it says, by its password: one answer, at one price, for all who are not."""

from penstock.accounts.attempts import Attempts
from penstock.accounts.model import User
from penstock.accounts.passwords import Passwords
from penstock.accounts.stored_users import StoredUsers
from penstock.errors import Overloaded, Unauthenticated


class PasswordCheck:
    """Checks user names and passwords, so many times and no more."""

    def __init__(self, users: StoredUsers, passwords: Passwords, attempts: Attempts) -> None:
        self._users = users
        self._passwords = passwords
        self._attempts = attempts

    async def verified(self, name: str, password: str, address: str) -> User:
        """The user of this name, whose password it is.

        Raises Unauthenticated (WRONG_CREDENTIALS), Overloaded (TOO_MANY_ATTEMPTS, TOO_MANY_SIGN_INS), Unavailable.
        """
        name = name.lower()
        attempt = self._attempts.begin(name, address)
        user = self._users.get(name)
        try:
            verdict = await self._passwords.verify(user.password_hash if user else "", password)
        except Overloaded:
            attempt.did_not_happen()
            raise
        # As it is now: while the hash was computed it may have been disabled, or have got another password.
        now = self._users.get(name)
        if user is None or now is None or now.disabled or now.password_hash != user.password_hash or not verdict.right:
            raise Unauthenticated("wrong user name or password", reason="WRONG_CREDENTIALS")
        attempt.succeeded()
        if verdict.rehashed:
            return await self._users.change(name, password_hash=verdict.rehashed)
        return now
