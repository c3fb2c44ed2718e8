"""Batches under a clock that moves only when told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from lateen.pilot.xds.batching import MAX_GAP_SECONDS, MIN_GAP_SECONDS, Batcher, Pace


@pytest.mark.parametrize(
    ("pace", "changed", "due"),
    [
        pytest.param(Pace(), 0.0, 0.0, id="the first change goes at once"),
        pytest.param(Pace(ended=1.0), 1.004, 1.0 + MIN_GAP_SECONDS, id="soon after a batch it waits"),
        pytest.param(Pace(ended=1.0), 1.5, 1.5, id="after quiet it goes at once"),
        pytest.param(Pace(ended=1.0, gap_seconds=0.08), 1.02, 1.08, id="the gap has grown"),
    ],
)
def test_when_a_batch_goes(pace: Pace, changed: float, due: float) -> None:
    assert pace.due(changed) == pytest.approx(due)


def test_the_gap_grows_under_churn_and_shrinks_in_quiet() -> None:
    pace, gaps = Pace(), []
    now = 0.0
    for _ in range(8):
        now = pace.due(now)
        pace = pace.after(changed=now - 0.001 if gaps else now, ended=now)
        gaps.append(pace.gap_seconds)
    assert gaps == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1, 0.1])
    assert max(gaps) == MAX_GAP_SECONDS
    assert pace.after(changed=now + 5, ended=now + 5).gap_seconds == MIN_GAP_SECONDS


@dataclass
class Clock:
    """Time that passes when `pass_time` says so; sleepers wait for it."""

    now: float = 100.0
    sleeping: list[float] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeping.append(seconds)
        until = self.now + seconds
        while self.now < until - 1e-9:
            await self._wake.wait()

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._wake.set()
        self._wake.clear()
        await settle()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_changes_are_handed_over_in_batches() -> None:
    clock = Clock()
    batcher: Batcher[str, int] = Batcher(clock=clock, sleep=clock.sleep)
    batches: list[Mapping[str, int]] = []
    task = asyncio.create_task(batcher.run(batches.append))
    await settle()

    batcher.put("a", 1)
    await settle()
    assert batches == [{"a": 1}]

    for value in range(5):
        batcher.put("a", value)
        batcher.put("b", value)
    await settle()
    assert batches == [{"a": 1}]
    await clock.pass_time(MIN_GAP_SECONDS)
    assert batches[1:] == [{"a": 4, "b": 4}]
    assert list(batches[1]) == ["a", "b"]

    await clock.pass_time(10)
    batcher.put("c", 1)
    await settle()
    assert batches[2:] == [{"c": 1}]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_apply_puts_comes_with_the_next_batch() -> None:
    clock = Clock()
    batcher: Batcher[str, int] = Batcher(clock=clock, sleep=clock.sleep)
    batches: list[Mapping[str, int]] = []

    def apply(batch: Mapping[str, int]) -> None:
        batches.append(batch)
        if len(batches) == 1:
            batcher.put("later", 1)

    task = asyncio.create_task(batcher.run(apply))
    batcher.put("now", 1)
    await settle()
    await clock.pass_time(1)
    assert batches == [{"now": 1}, {"later": 1}]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_apply_raises_ends_it() -> None:
    batcher: Batcher[str, int] = Batcher()

    def fail(_batch: Mapping[str, int]) -> None:
        raise RuntimeError("boom")

    batcher.put("a", 1)
    with pytest.raises(RuntimeError, match="boom"):
        await batcher.run(fail)
