"""What the gate says of a statement."""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.queries.views import View
from penstock.storage.version import Version


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the text that was sent, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why a statement is refused: a stable code, what is wrong and what to write instead."""

    code: str
    message: str
    position: Position


@dataclass(frozen=True, slots=True)
class Refused:
    """A statement that does not run, and why; there is at least one reason, in the order of the text."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A statement that may run: what was understood of the text, never the text itself."""

    pieces: tuple[str | View, ...]  # SQL, and the views between it
    views: tuple[str, ...]  # names of the views that it reads, sorted
    parameters: Mapping[str, str]  # type by name, of the parameters that it binds
    ordered: bool  # whether ORDER BY decides the order of the result's rows
    limited: bool  # whether it has a LIMIT of its own

    def sql(self, version: Version) -> str:
        """The statement over the rows of `version`; binds `views.TENANT` besides `parameters`."""
        return "".join(piece if isinstance(piece, str) else piece.relation(version) for piece in self.pieces)
