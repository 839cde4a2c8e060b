"""Runs a command's coroutine and turns what goes wrong into a line on standard error and an exit code."""

from collections.abc import Coroutine
from typing import Any, NoReturn

import typer
import uvloop
from rich.console import Console
from rich.text import Text

from penstock.errors import PenstockError
from penstock.startup import StartupError
from penstock_client import Error as ClientError

INTERRUPTED = 130  # what a shell makes of a process that Ctrl-C ended


class CommandError(Exception):
    """The command could not do its work; the message says why, and what to do."""


def run(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Runs `work` to its exit code and ends the command with it."""
    try:
        code = uvloop.run(work)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (CommandError, StartupError, PenstockError, ClientError) as error:
        fail(str(error))
    raise typer.Exit(code)


def fail(message: str) -> NoReturn:
    """Says what went wrong and ends the command with exit code 1."""
    # Text, not markup: a message may quote what somebody typed, brackets and all.
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble(("penstock: ", "bold red"), message))
    raise typer.Exit(1)
