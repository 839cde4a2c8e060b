"""The server that an evaluation asks: one of its own, over a folder that goes away with it, or one that runs."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pyarrow as pa

from penstock.catalog.v1.catalog_pb2 import Product
from penstock.cli.child import running_stack
from penstock.cli.remote import RETRY_S, connected
from penstock.cli.running import CommandError
from penstock.cli.serve import settings_of
from penstock.signals import stop_event
from penstock_client import Client, TimedOut, Unavailable
from penstock_client.replay_files import MALFORMED, chunks

INDEXED_S_MAX = 3_600.0  # 100,000 texts take a quarter of an hour
POLL_S = 0.5


@asynccontextmanager
async def asked(address: str) -> AsyncIterator[Client]:
    """A client of the server there, or without an address of one that is started now. Raises CommandError."""
    if address:
        async with connected(address, retry_s=RETRY_S) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="penstock-evaluate-", ignore_cleanup_errors=True) as folder:
        settings = settings_of(data_dir=Path(folder), grpc_port=0, http_port=0, fsync=False)
        async with running_stack(settings, stop_event(), log=Path(folder) / "server.log") as stack:
            if stack is None:
                raise CommandError("it was stopped before its server had started")
            async with connected(f"{settings.grpc_host}:{stack.grpc_port}", retry_s=RETRY_S) as client:
                yield client


async def shelve(client: Client, products: Iterable[Product]) -> None:
    """Stores the products and waits until all can be found by their vectors. Raises CommandError, Error."""
    await client.catalog.load(products)
    deadline = time.monotonic() + INDEXED_S_MAX
    while time.monotonic() < deadline:
        try:
            index = await client.search.index()
        except (TimedOut, Unavailable):  # it is being read
            pass
        else:
            if index.state == "READY" and not index.pending_vectors:
                return
        await asyncio.sleep(POLL_S)
    raise CommandError(f"the products had no vectors after {INDEXED_S_MAX:g} s")


def rows_of(file: Path, mapping: Mapping[str, str], *, needs: Iterable[str], delimiter: str) -> pa.Table:
    """All rows of the file, its columns called by the names that `mapping` gives as name → column.

    Raises ValueError for a file of another kind, a column that is missing, or a line that is no row.
    """
    table = pa.concat_tables(
        [chunk.table for chunk in chunks(file, 0, columns=(), delimiter=delimiter)], promote_options="permissive"
    )
    if MALFORMED in table.column_names and table[MALFORMED].null_count < table.num_rows:
        raise ValueError(f"{file.name} has lines that are no rows")
    for column in mapping.values():
        if column not in table.column_names:
            raise ValueError(f"{file.name} has no column {column!r}; it has {', '.join(table.column_names)}")
    named = {name: table[name] for name in table.column_names if name not in mapping.values()}
    named |= {name: table[column] for name, column in mapping.items()}
    missing = [name for name in needs if name not in named]
    if missing:
        raise ValueError(
            f"{file.name} has no column {', '.join(missing)}: say which it is, as in --map {missing[0]}=COLUMN;"
            f" it has {', '.join(table.column_names)}"
        )
    return pa.table(named)


def parse_mapping(arguments: Iterable[str], names: Iterable[str]) -> Mapping[str, str]:
    """`name=column` pairs, several with commas between them. Raises ValueError for a name that is none of `names`."""
    pairs: dict[str, str] = {}
    for pair in (pair for argument in arguments for pair in argument.split(",")):
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not column or name not in set(names):
            raise ValueError(f"{pair} is no NAME=COLUMN with a NAME of {', '.join(names)}")
        pairs[name] = column
    return pairs
