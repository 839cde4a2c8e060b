"""A tenant whose training fails keeps no other from learning."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.errors import Overloaded
from penstock.recommendations.models import Models
from tests.waiting import until


@pytest.mark.parametrize("error", [Overloaded("too much", reason="OVERLOADED"), ValueError("a bug")])
async def test_a_training_that_fails_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def tenants() -> list[str]:
        return ["a", "b", "c"]

    tended: list[str] = []

    async def tend(tenant: str) -> None:
        tended.append(tenant)
        if tenant == "a":
            raise error

    async def closed() -> None:
        await asyncio.sleep(0)

    nothing = cast(Any, None)
    workers = cast(Any, SimpleNamespace(close=closed))
    log = cast(Any, SimpleNamespace(head=0))
    models = Models(nothing, cast(Any, SimpleNamespace(tenants=tenants)), nothing, log, workers, tmp_path)
    monkeypatch.setattr(models, "_tend", tend)
    models.start()
    await until(lambda: len(tended) == 3)
    await models.stop()
    assert tended == ["a", "b", "c"]
