"""The Python SDK of Penstock: `async with penstock.Client("localhost:50051") as client: …`."""

from penstock.catalog.v1.catalog_pb2 import Product
from penstock.events.v1.events_pb2 import Event, StoredEvent
from penstock.feedback.v1.feedback_pb2 import Interaction
from penstock_client.acks import Ack
from penstock_client.catalog import LoadedProducts
from penstock_client.client import Client
from penstock_client.errors import (
    AccessDenied,
    AlreadyStored,
    Conflict,
    Error,
    InvalidRequest,
    LimitReached,
    NotFound,
    OffsetMismatch,
    OutOfRange,
    Overloaded,
    PageTokenExpired,
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
from penstock_client.feedback import interaction
from penstock_client.fields import event
from penstock_client.filters import Filters
from penstock_client.operation import Operation
from penstock_client.products import product
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
]
