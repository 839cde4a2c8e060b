"""A Redis for each test, and one connection to it."""

from collections.abc import AsyncIterator

import pytest

from penstock.cache.redis import Redis
from tests.cache.running import PATIENT_S, Server, redis_server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A Redis in a process of its own."""
    async with redis_server() as running:
        yield running


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Redis]:
    """It, as a server sees it that shares it with others."""
    async with Redis(server.url, call_s_max=PATIENT_S) as connected:
        yield connected


@pytest.fixture
async def hasty_redis(server: Server) -> AsyncIterator[Redis]:
    """It, by a server that waits no longer than servers really do."""
    async with Redis(server.url) as connected:
        yield connected
