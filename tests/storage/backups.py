"""Backups that no database is needed for."""

import os
from pathlib import Path

from penstock.storage.backup import pack
from penstock.storage.backup.manifest import About

ABOUT = About("0.1.0", "26.9.2.1", 1, "2026-01-02T03:04:05+00:00", 7, "store/0f1/0f1e2d3c-0000-4000-8000-00000000abcd")
TABLE = f"clickhouse/{ABOUT.database}/commits.sql"


def small_backup(folder: Path) -> Path:
    """Makes one of three files, which stand in `folder`/sources; returns where it is."""
    sources = []
    for name, size in ((TABLE, 700), ("index/empty", 0), ("models/block", 512)):
        path = folder / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        sources.append((name, path))
    pack.pack(folder / "small.backup", ABOUT, sources)
    return folder / "small.backup"


def flipped(whole: bytes, place: int, mask: int) -> bytes:
    """`whole` with some bits of one byte changed."""
    return whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
