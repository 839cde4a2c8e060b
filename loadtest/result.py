"""What a benchmark found out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

Detail: TypeAlias = float | int | str | bool | None


class Better(Enum):
    """Which way is good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Result:
    """One figure, the limit that it is held against, and how both came about."""

    name: str
    value: float
    unit: str
    limit: float  # in the same unit
    limit_is: str  # what was measured, or who set it
    better: Better = Better.HIGHER
    target: float | None = None  # for the ratio; None: for the value, or there is none
    target_value: float | None = None
    holds: bool = True  # whether what the target goes with is so as well: a recall, another percentile
    details: Mapping[str, Detail] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Value ÷ limit."""
        return self.value / self.limit if self.limit else float("inf")

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, and what goes with it; None without one."""
        if self.target is not None:
            reached, wanted = self.ratio, self.target
        elif self.target_value is not None:
            reached, wanted = self.value, self.target_value
        else:
            return None
        return self.holds and (reached >= wanted if self.better is Better.HIGHER else reached <= wanted)

    def line(self) -> str:
        """All of it as one line of JSON."""
        return json.dumps(
            {
                "name": self.name,
                "value": _shortened(self.value),
                "unit": self.unit,
                "limit": _shortened(self.limit),
                "ratio": _shortened(self.ratio),
                "better": self.better.value,
                "target_ratio": self.target,
                "target_value": self.target_value,
                "met": self.met,
                "limit_is": self.limit_is,
                **{name: _shortened(value) for name, value in self.details.items()},
            }
        )


def _shortened(value: Detail) -> Detail:
    return float(f"{value:.4g}") if isinstance(value, float) else value
