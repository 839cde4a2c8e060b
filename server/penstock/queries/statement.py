"""What is asked of the area, and what it answers; no wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from penstock.queries.verdict import Checked, Reason
from penstock.storage.user_sql.statement import Column, Usage


@dataclass(frozen=True, slots=True)
class Query:
    """A statement as it was sent."""

    tenant: str
    sql: str
    parameters: Mapping[str, object] = field(default_factory=dict)  # as JSON has them
    limit: int = 0  # rows; 0: the default
    as_of_version: int = 0  # 0: now
    as_of_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf, for the record."""

    method: str
    request_id: str
    client_address: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A whole result."""

    sql: str  # as the gate understood it
    columns: tuple[Column, ...]
    rows: Sequence[list[object]]
    truncated: bool
    usage: Usage
    cached: bool
    version: int


@dataclass(frozen=True, slots=True)
class Validation:
    """Whether a statement would run."""

    reasons: tuple[Reason, ...] = ()
    wrong: str = ""  # what the engine says of a statement that the gate let through
    sql: str = ""
    columns: tuple[Column, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    views: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether it would."""
        return not self.reasons and not self.wrong


def readable(checked: Checked) -> str:
    """What runs, for a person: views by their names instead of what stands behind them."""
    text = "".join(piece if isinstance(piece, str) else piece.name for piece in checked.pieces)
    return text.replace("`penstock_with_", "`")
