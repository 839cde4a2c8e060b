"""Between the contract's messages and what accounts are here."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.accounts.model import ApiKey, User
from penstock.accounts.v1 import accounts_pb2
from penstock.rpc.principal import names_of


def time_of(stamp: Timestamp) -> datetime:
    """A time of the contract's."""
    return stamp.ToDatetime(UTC)


def stamp(time: datetime | None) -> Timestamp | None:
    """A time for the contract; None stays absent."""
    if time is None:
        return None
    made = Timestamp()
    made.FromDatetime(time)
    return made


def user(found: User) -> accounts_pb2.User:
    """A user, without anything that they open with."""
    return accounts_pb2.User(
        name=found.name,
        tenant=found.tenant,
        roles=names_of(found.roles),
        email=found.email,
        disabled=found.disabled,
        create_time=stamp(found.created),
    )


def api_key(found: ApiKey) -> accounts_pb2.ApiKey:
    """A key, without anything that it opens with."""
    return accounts_pb2.ApiKey(
        id=found.id,
        name=found.name,
        tenant=found.tenant,
        roles=names_of(found.roles),
        created_by=found.created_by,
        create_time=stamp(found.created),
        expire_time=stamp(found.expires),
        last_used_time=stamp(found.last_used),
        revoke_time=stamp(found.revoked),
    )
