"""Drain and registration: what is waited for, what is told to the control plane, and in which order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.fakes.agent_mesh import MESH

from lateen.agent.drain import SETTLE_SECONDS, active_work, drain
from lateen.agent.log import Log, last_line, shorten_log
from lateen.agent.registration import Registrar, start_ticks
from lateen.agent.stop import Stop
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.wire.local import Goodbye, Registered, Registration

STATS = {
    "http.inbound_0.0.0.0_9080;.downstream_rq_active": 2,
    "http.inbound_0.0.0.0_9080;.downstream_cx_active": 50,  # idle connections of HTTP do not count
    "http.outbound_0.0.0.0_9080;.downstream_rq_active": 4,
    "http.InboundPassthroughCluster;.downstream_rq_active": 8,
    "tcp.inbound|3306||.downstream_cx_active": 16,
    "tcp.outbound|3306||db;.downstream_cx_active": 32,
    "http.admin.downstream_rq_active": 64,
    "http.stats.downstream_rq_active": 128,
    "listener.0.0.0.0_15006.downstream_cx_active": 256,
}


def test_what_counts_as_work() -> None:
    assert active_work(STATS, inbound_only=True) == 2 + 8 + 16
    assert active_work(STATS, inbound_only=False) == 2 + 4 + 8 + 16 + 32
    assert active_work({}, inbound_only=True) == 0


@dataclass
class FakeAdmin:
    """An Envoy whose requests end after so many looks."""

    looks: int
    drained: list[bool] = field(default_factory=list)
    now: float = 0.0

    async def drain_listeners(self, *, inbound_only: bool) -> None:
        self.drained.append(inbound_only)

    async def stats(self, _: str) -> dict[str, int]:
        self.looks -= 1
        if self.looks < -1000:
            raise Unavailable("gone")
        return {"http.inbound_a;.downstream_rq_active": max(self.looks, 0)}

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def run(self, seconds: float) -> int:
        return await drain(
            self,  # type: ignore[arg-type]
            inbound_only=True,
            seconds=seconds,
            sleep=self.sleep,
            clock=lambda: self.now,
        )


async def test_an_idle_workload_leaves_soon() -> None:
    admin = FakeAdmin(looks=0)
    assert await admin.run(5.0) == 0
    assert SETTLE_SECONDS <= admin.now < SETTLE_SECONDS + 0.2
    assert admin.drained == [True]


async def test_a_busy_one_waits_for_its_requests() -> None:
    admin = FakeAdmin(looks=41)
    assert await admin.run(5.0) == 0
    assert 1.9 < admin.now < 2.2


async def test_but_not_for_ever() -> None:
    admin = FakeAdmin(looks=10_000)
    assert await admin.run(5.0) > 0
    assert 5.0 <= admin.now < 5.2


async def test_without_envoy_there_is_nothing_to_wait_for() -> None:
    assert await FakeAdmin(looks=-2000).run(5.0) == 0


# ---- registration


def make_registration(**fields: Any) -> Registration:
    return Registration(**{"name": "reviews-v3", "ip": "10.77.0.2", "pid": os.getpid(), "start_ticks": 1, **fields})


@dataclass
class FakeControl:
    calls: list[Registration | Goodbye] = field(default_factory=list)
    failures: list[LateenError] = field(default_factory=list)
    gate: asyncio.Event | None = None
    slept: list[float] = field(default_factory=list)

    async def register(self, message: Registration) -> Registered:
        if self.gate is not None:
            await self.gate.wait()
        self.calls.append(message)
        if self.failures:
            raise self.failures.pop(0)
        return MESH

    async def deregister(self, message: Goodbye) -> Registered:
        self.calls.append(message)
        if self.failures:
            raise self.failures.pop(0)
        return MESH

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def registrar(self, log: Log) -> Registrar:
        return Registrar(self.register, self.deregister, log=log, draw=lambda: 0.0, sleep=self.sleep)


async def test_only_the_newest_word_counts(log: Any, until: Callable[..., Any]) -> None:
    control = FakeControl()
    registrar = control.registrar(log)
    assert await registrar.first(make_registration(), seconds=5) == MESH
    task = asyncio.create_task(registrar.run())
    control.gate = asyncio.Event()
    registrar.want(make_registration(app_pid=1))
    await asyncio.sleep(0)
    registrar.want(make_registration(app_pid=2))
    registrar.want(make_registration(app_pid=3))
    control.gate.set()
    await until(lambda: control.calls[-1] == make_registration(app_pid=3))
    assert make_registration(app_pid=2) not in control.calls
    registrar.want(make_registration(app_pid=3))  # nothing new
    registrar.again()  # the control plane came back
    await until(lambda: control.calls.count(make_registration(app_pid=3)) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_absence_is_outlasted(log: Any, until: Callable[..., Any]) -> None:
    control = FakeControl()
    registrar = control.registrar(log)
    await registrar.first(make_registration(), seconds=5)
    control.failures = [Unavailable("away")] * 4
    task = asyncio.create_task(registrar.run())
    registrar.want(make_registration(ready=True))
    await until(lambda: not control.failures and len(control.calls) == 6)
    assert control.slept == [0.05, 0.1, 0.2, 0.4]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_goodbye_is_the_last_word(log: Any) -> None:
    control = FakeControl()
    registrar = control.registrar(log)
    await registrar.first(make_registration(), seconds=5)
    task = asyncio.create_task(registrar.run())
    control.gate = asyncio.Event()
    registrar.want(make_registration(ready=True))
    await asyncio.sleep(0.01)  # its call is on the way
    leaving = asyncio.create_task(registrar.leave(name="reviews-v3", pid=7))
    await asyncio.sleep(0)
    registrar.want(make_registration(ready=False))
    control.gate.set()
    await leaving
    registrar.again()
    await registrar.leave(name="reviews-v3", pid=7)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert control.calls == [
        make_registration(),
        make_registration(ready=True),
        Goodbye(name="reviews-v3", pid=7),
    ]


@pytest.mark.parametrize("error", [Refused("taken"), BadInput("wrong")])
async def test_a_refusal_is_told_at_once(log: Any, error: LateenError) -> None:
    control = FakeControl(failures=[error])
    with pytest.raises(type(error)):
        await control.registrar(log).first(make_registration(), seconds=60)
    assert len(control.calls) == 1


async def test_a_control_plane_that_does_not_come(log: Any) -> None:
    control = FakeControl(failures=[Unavailable("away")] * 50)
    with pytest.raises(Unavailable):
        await control.registrar(log).first(make_registration(), seconds=0.3)
    assert len(control.calls) > 1


async def test_goodbyes_do_not_fail(log: Any) -> None:
    await FakeControl(failures=[Unavailable("away")]).registrar(log).leave(name="a", pid=1)
    assert log.said("not deregistered")


def test_start_ticks_name_a_process() -> None:
    assert start_ticks(os.getpid()) > 0
    with pytest.raises(OSError, match=r"stat"):
        start_ticks(2**22 + 1)


# ---- being asked to leave


async def test_asked_twice_means_at_once_but_a_doubled_signal_is_one() -> None:
    now = 100.0
    stop = Stop(clock=lambda: now)
    stop.ask(2)
    now += 0.01
    stop.ask(2)
    assert (stop.signal, stop.asked.is_set(), stop.hurried.is_set()) == (2, True, False)
    now += 1.0
    stop.ask(15)
    assert (stop.signal, stop.hurried.is_set()) == (2, True)


@pytest.mark.parametrize(
    ("ignored", "sent", "handed_on"),
    [
        pytest.param((), signal.SIGINT, signal.SIGINT, id="ctrl-c"),
        pytest.param((), signal.SIGTERM, signal.SIGTERM, id="kill"),
        pytest.param((), signal.SIGHUP, signal.SIGTERM, id="terminal closed"),
        pytest.param((signal.SIGINT,), signal.SIGINT, signal.SIGTERM, id="background job of a script"),
        pytest.param((signal.SIGHUP,), signal.SIGHUP, None, id="nohup"),
    ],
)
async def test_signals(ignored: tuple[int, ...], sent: int, handed_on: int | None) -> None:
    # Each is set: the tests may themselves run under nohup, or in the background of a script.
    before = {
        number: signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    stop = Stop()
    try:
        with stop.on_signals():
            os.kill(os.getpid(), sent)
            if handed_on is not None:
                await asyncio.wait_for(stop.asked.wait(), 5)
                assert stop.signal == handed_on
            assert stop.asked.is_set() is (handed_on is not None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_work_ends_when_leaving_is_asked_for() -> None:
    stop = Stop()
    never = asyncio.Event()
    waiting = asyncio.create_task(stop.unless_asked(never.wait()))
    await asyncio.sleep(0)
    stop.ask()
    assert await waiting is None
    assert await Stop().unless_hurried(asyncio.sleep(0, "done")) == "done"


# ---- logs


def test_a_long_log_is_shortened(tmp_path: Any) -> None:
    path = tmp_path / "envoy.log"
    lines = [f"line {i}\n" for i in range(1000)]
    path.write_text("".join(lines))
    with open(path, "a") as writer:
        assert shorten_log(path, limit_bytes=1000)
        writer.write("after\n")
    assert path.read_text() == "after\n"
    kept = (tmp_path / "envoy.log.1").read_text()
    assert 400 < len(kept) <= 500
    assert kept.startswith("line ")
    assert kept.endswith("line 999\n")
    assert not shorten_log(path)
    assert not shorten_log(tmp_path / "none")


def test_last_line(tmp_path: Any) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_text("x" * 5000 + "\nthe end\n\n")
    assert last_line(path) == "the end"


def test_log_lines_hold_one_event_each(log: Any) -> None:
    log.bind(workload="a b").warning("event text", text='x"y\nz', number=1.5, empty="", plain="a/b")
    line = log.buffer.getvalue()
    assert line == (
        '2026-01-01T00:00:00.000000Z warning event text workload="a b" '
        'text="x\\"y\\nz" number=1.500 empty="" plain=a/b\n'
    )
