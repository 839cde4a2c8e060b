"""Random secrets as text, and how they are kept and compared."""

import hashlib
import hmac
import secrets
import string

ALPHABET = string.digits + string.ascii_letters
SECRET_CHARS = 43  # of 62 letters and digits: 256 bits


def drawn(chars: int) -> str:
    """So many random letters and digits, 5.95 bits each."""
    return "".join(secrets.choice(ALPHABET) for _ in range(chars))


def digest(secret: str) -> str:
    """What is kept of a random secret: its SHA-256.

    A slow hash makes guessing costly, which a password needs because people choose it. Nobody guesses 256 random bits,
    however fast; and a fast hash is what each call can pay.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same(one: str, other: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))
