"""Penstock: event streams in, decisions out.

Its SDK's public names are names of this package too: `penstock.Client` is `penstock_client.Client`. They are looked up
when first used, because the generated messages that the SDK imports live in this package, and because the server, which
imports it a hundred times over, needs none of them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock_client import *  # noqa: F403

_NAMES = frozenset(
    (
        "AccessDenied",
        "Ack",
        "AlreadyStored",
        "Client",
        "Conflict",
        "Error",
        "Event",
        "Filters",
        "Interaction",
        "InvalidRequest",
        "LimitReached",
        "LoadedProducts",
        "NotFound",
        "OffsetMismatch",
        "Operation",
        "OutOfRange",
        "Overloaded",
        "PageTokenExpired",
        "Product",
        "QueryLimit",
        "RejectedRow",
        "ResumeTokenExpired",
        "RowsRejected",
        "RunInProgress",
        "ServerFault",
        "SqlAnswer",
        "SqlPage",
        "SqlResult",
        "StorageUnavailable",
        "StoredEvent",
        "StreamTakenOver",
        "SyncClient",
        "SyncOperation",
        "SyncTail",
        "SyncWriter",
        "Tail",
        "TimedOut",
        "Unavailable",
        "Violation",
        "Writer",
        "WriterClosed",
        "WriterStats",
        "event",
        "interaction",
        "product",
    )
)


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    import penstock_client

    value: object = getattr(penstock_client, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
