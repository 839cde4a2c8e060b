"""The Python SDK of Penstock: `async with penstock.Client("localhost:50051") as client: …`."""

from penstock.events.v1.events_pb2 import Event, StoredEvent
from penstock_client.acks import Ack
from penstock_client.client import Client
from penstock_client.errors import (
    AccessDenied,
    AlreadyStored,
    Conflict,
    Error,
    InvalidRequest,
    NotFound,
    OffsetMismatch,
    OutOfRange,
    Overloaded,
    QueryLimit,
    RejectedRow,
    ResumeTokenExpired,
    RowsRejected,
    RunInProgress,
    ServerFault,
    StorageUnavailable,
    StreamTakenOver,
    TimedOut,
    Unavailable,
    Violation,
    WriterClosed,
)
from penstock_client.events import Tail
from penstock_client.fields import event
from penstock_client.pipeline import Operation
from penstock_client.sql import SqlAnswer, SqlPage, SqlResult
from penstock_client.sync import SyncClient, SyncOperation, SyncTail, SyncWriter
from penstock_client.writer import Writer, WriterStats

__all__ = [
    "AccessDenied",
    "Ack",
    "AlreadyStored",
    "Client",
    "Conflict",
    "Error",
    "Event",
    "InvalidRequest",
    "NotFound",
    "OffsetMismatch",
    "Operation",
    "OutOfRange",
    "Overloaded",
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
]
