"""What cleanups removed, as the commit log tells it.

A removal is one commit, `cleanup`: from that version on readers leave the rows out, and older versions still have them.
Later a purge deletes them from disk: `purge` says which removals' rows go, so that nobody reads a version any more that
shows them, and `purged` that they are gone. Between the two, rows may be there or not, and nobody sees them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from penstock.storage.version import Cut, without_covered

OPERATIONS = ("cleanup", "purge", "purged")


@dataclass(frozen=True, slots=True)
class Removal:
    """One cleanup, of which rows may still be on disk."""

    commit: int
    time: datetime
    tenant: str
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, slots=True)
class Removals:
    """All that cleanups removed, up to some commit."""

    on_disk: tuple[Removal, ...] = ()  # oldest first
    oldest: Mapping[str, int] = field(default_factory=dict)  # by tenant: the oldest version that can be read

    def cuts(self, commit: int) -> tuple[Cut, ...]:
        """What readers as of `commit` leave out."""
        return without_covered(cut for removal in self.on_disk if removal.commit <= commit for cut in removal.cuts)

    def oldest_version(self, tenant: str | None) -> int:
        """The oldest version that can be read, 0 for any; without a tenant, that of all tenants can."""
        if tenant is None:
            return max(self.oldest.values(), default=0)
        return self.oldest.get(tenant, 0)

    def begun(self) -> list[Removal]:
        """Those whose purge has begun and not ended."""
        return [removal for removal in self.on_disk if removal.commit <= self.oldest.get(removal.tenant, 0)]

    def then(self, commit: int, time: datetime, operation: str, detail: Mapping[str, Any]) -> "Removals":
        """What is known after one more row of the log."""
        tenant = detail.get("tenant", "")
        match operation:
            case "cleanup" if "cuts" in detail:
                return replace(self, on_disk=(*self.on_disk, Removal(commit, time, tenant, _cuts(tenant, detail))))
            case "cleanup":  # of a server that deleted at once
                return replace(self, oldest={**self.oldest, tenant: commit})
            case "purge":
                return replace(self, oldest={**self.oldest, tenant: int(detail["through"])})
            case "purged":
                left = (each for each in self.on_disk if each.tenant != tenant or each.commit > detail["through"])
                return replace(self, on_disk=tuple(left))
        return self


def detail_of(cuts: tuple[Cut, ...]) -> dict[str, dict[str, Any]]:
    """What a log row says of a removal's cuts, by table."""
    return {
        cut.table: {
            "before": cut.before.isoformat(),
            "through": cut.through,
            **({} if cut.processed is None else {"processed": cut.processed}),
            **({"kept_runs": list(cut.kept_runs)} if cut.kept_runs else {}),
        }
        for cut in cuts
    }


def _cuts(tenant: str, detail: Mapping[str, Any]) -> tuple[Cut, ...]:
    return tuple(
        Cut(
            table,
            tenant,
            datetime.fromisoformat(said["before"]).astimezone(UTC),
            said["through"],
            said.get("processed"),
            tuple(said.get("kept_runs", ())),
        )
        for table, said in detail["cuts"].items()
    )


def parsed(detail: str) -> dict[str, Any]:
    """A log row's detail."""
    found: dict[str, Any] = json.loads(detail) if detail else {}
    return found
