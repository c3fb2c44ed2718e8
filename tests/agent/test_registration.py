"""Registrations are told once, again when the control plane may be another, and regularly where it cannot see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lateen.agent import registration
from lateen.agent.registration import Registrar
from lateen.errors import Refused, Unavailable
from lateen.wire.local import Goodbye, Registered, Registration

MESH = Registered(trust_domain="cluster.local", cluster_domain="cluster.local", mesh_id="m", cluster_id="c")
ME = Registration(name="reviews-v1", ip="10.0.0.2", pid=1, start_ticks=1)


class Plane:
    """Notes what it is told; fails as often as it is asked to."""

    def __init__(self, *failures: Exception) -> None:
        self.told: list[Registration] = []
        self.left: list[Goodbye] = []
        self.failures = list(failures)

    async def register(self, message: Registration) -> Registered:
        if self.failures:
            raise self.failures.pop(0)
        self.told.append(message)
        return MESH

    async def deregister(self, message: Goodbye) -> Registered:
        self.left.append(message)
        return MESH

    def registrar(self, log: Any, heartbeat_seconds: float | None) -> Registrar:
        async def soon(_: float) -> None:
            await asyncio.sleep(0)

        return Registrar(
            self.register,
            self.deregister,
            log=log,
            draw=lambda: 0.0,
            heartbeat_seconds=heartbeat_seconds,
            sleep=soon,
        )


async def test_elsewhere_it_says_again_and_again_that_it_lives(log: Any, until: Callable[..., Any]) -> None:
    plane = Plane()
    registrar = plane.registrar(log, 0.02)
    await registrar.first(ME, seconds=1)
    running = asyncio.create_task(registrar.run())
    await until(lambda: len(plane.told) > 5)
    plane.failures = [Unavailable("away")] * 3
    before = len(plane.told)
    await until(lambda: len(plane.told) > before + 3)
    assert set(map(str, plane.told)) == {str(ME)}
    assert sum(" info " in line for line in log.said("registered")) == 1, "and nobody is told of it each time"
    await registrar.leave(name=ME.name, pid=1)
    told = len(plane.told)
    await asyncio.sleep(0.1)
    assert len(plane.told) == told
    assert plane.left == [Goodbye(name=ME.name, pid=1)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_on_this_machine_once_is_enough(log: Any) -> None:
    plane = Plane()
    registrar = plane.registrar(log, None)
    await registrar.first(ME, seconds=1)
    running = asyncio.create_task(registrar.run())
    await asyncio.sleep(0.1)
    assert plane.told == [ME]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_refusal_at_first_is_final(log: Any) -> None:
    plane = Plane(Refused("the name is taken"))
    with pytest.raises(Refused, match="the name is taken"):
        await plane.registrar(log, 0.02).first(ME, seconds=1)
    assert plane.told == []


async def test_a_control_plane_that_does_not_answer_holds_up_no_tidying(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a task that is cancelled: what comes after the goodbye has to be done."""
    monkeypatch.setattr(registration, "GOODBYE_SECONDS", 0.02)
    plane = Plane()
    done: list[str] = []

    async def hang(_: Goodbye) -> Registered:
        await asyncio.sleep(1000)
        return MESH

    async def run() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await Registrar(plane.register, hang, log=log, draw=lambda: 0.0).leave(name=ME.name, pid=1)
            done.append("folder removed")

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert done == ["folder removed"]
    assert log.said("not deregistered")
