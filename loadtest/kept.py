"""Folders of data that take long to make: made once, kept, and named by what made them."""

import hashlib
import multiprocessing
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec

from penstock.storage.schema import migrations

Given = ParamSpec("Given")


def kept_folder(parent: Path, prefix: str, made_by: Iterable[str], make: Callable[[Path], None]) -> Path:
    """The folder made by these texts and the schema, in `parent`; `make` fills it where it is not there. Blocks."""
    told = "".join([*made_by, *(text for _, _, text in migrations())])
    folder = parent / f"{prefix}{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if not folder.exists():
        parent.mkdir(exist_ok=True)
        for left in parent.glob("*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        partial = folder.with_suffix(".partial")
        make(partial)
        partial.rename(folder)
    return folder


def in_own_process(work: Callable[Given, None], *args: Given.args, **kwargs: Given.kwargs) -> None:
    """Does the work in a process of its own, because one process opens one data folder; raises what it raises."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(work, *args, **kwargs).result()
