"""What tests of the agent share: its log in memory, a fake mesh, waiting for facts instead of sleeping."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from tests.fakes.agent_mesh import FakeMesh

from lateen.agent.log import Log


class MemoryLog(Log):
    """A log whose lines a test can read."""

    def __init__(self) -> None:
        self.buffer = io.StringIO()
        super().__init__(self.buffer, level="debug", now=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def said(self, event: str) -> list[str]:
        """Return the lines that hold `event`."""
        return [line for line in self.buffer.getvalue().splitlines() if f" {event}" in line]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
async def mesh() -> AsyncIterator[FakeMesh]:
    async with FakeMesh() as fake:
        yield fake


async def until(fact: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait until `fact` holds; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not fact():  # noqa: ASYNC110  # facts of many kinds, also of other processes
            await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., object]:
    return until
