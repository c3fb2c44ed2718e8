"""Callers take turns; what waits is bounded; whoever goes away leaves no gap."""

from __future__ import annotations

import asyncio

import pytest

from lateen.citadel.turns import Busy, Turns


async def serve(turns: Turns, caller: str, order: list[str], steps: int = 1) -> None:
    async with turns.turn(caller):
        order.append(caller)
        for _ in range(steps):
            await asyncio.sleep(0)


async def test_a_few_among_many() -> None:
    turns, order = Turns(at_once=1), []  # type: tuple[Turns, list[str]]
    many = [asyncio.create_task(serve(turns, "many", order)) for _ in range(1000)]
    few = [asyncio.create_task(serve(turns, "few", order)) for _ in range(5)]
    await asyncio.gather(*many, *few)
    assert len(order) == 1005
    assert [place for place, caller in enumerate(order) if caller == "few"] == [1, 3, 5, 7, 9]
    assert (turns.waiting, turns.most_waiting) == (0, 1005)


async def test_each_caller_keeps_its_order() -> None:
    turns, served = Turns(at_once=1), []  # type: tuple[Turns, list[int]]

    async def one(number: int) -> None:
        async with turns.turn("one"):
            served.append(number)

    await asyncio.gather(*(one(number) for number in range(50)))
    assert served == list(range(50))


async def test_no_more_at_once_than_may() -> None:
    turns, inside, most = Turns(at_once=3), 0, 0

    async def one(number: int) -> None:
        nonlocal inside, most
        async with turns.turn(str(number % 7)):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(one(number) for number in range(60)))
    assert most == 3


async def test_one_too_many_is_told_at_once() -> None:
    turns, order = Turns(at_once=1, waiting=10, waiting_of_one=6), []  # type: tuple[Turns, list[str]]
    results = await asyncio.gather(
        *(serve(turns, "greedy", order) for _ in range(8)),
        *(serve(turns, "other", order) for _ in range(4)),
        *(serve(turns, "late", order) for _ in range(2)),
        return_exceptions=True,
    )
    refused = [index for index, result in enumerate(results) if isinstance(result, Busy)]
    assert refused == [6, 7, 12, 13], "greedy has its own bound, late meets the one of all"
    assert turns.refused == 4
    assert order.count("greedy") == 6
    assert order.count("other") == 4
    await serve(turns, "greedy", order)


async def test_whoever_goes_leaves_no_gap() -> None:
    turns, order = Turns(at_once=1), []  # type: tuple[Turns, list[str]]
    tasks = [asyncio.create_task(serve(turns, "a", order, steps=3)) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 50
    assert len(order) == 50
    assert turns.waiting == 0
    await asyncio.wait_for(serve(turns, "b", order), 5)


async def test_a_failure_inside_frees_the_turn() -> None:
    turns = Turns(at_once=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"):
            async with turns.turn("a"):
                raise ValueError("inside")
    await asyncio.wait_for(serve(turns, "b", []), 5)
