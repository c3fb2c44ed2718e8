"""Envoy's supervisor and the application's owner, with children that end when a test says so."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lateen.agent.app import Application, app_environment, exit_code, missing_ports
from lateen.agent.envoy import EnvoySupervisor, envoy_arguments, find_envoy
from lateen.agent.listening import Listening, parse_listening, read_listening
from lateen.agent.monitor import ProxyMonitor
from lateen.agent.readiness import ProxyState
from lateen.agent.spec import Place, WorkloadSpec
from lateen.errors import BadInput, Unavailable
from lateen.wire.local import WorkloadPort


@dataclass
class FakeChild:
    """A process: ends when told, or by the signals that it heeds."""

    pid: int
    heeds: frozenset[int] = frozenset({signal.SIGTERM, signal.SIGKILL})
    returncode: int | None = None
    signals: list[int] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, code: int) -> None:
        self.returncode = code
        self.ended.set()

    async def wait(self) -> int:
        await self.ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        if number in self.heeds and self.returncode is None:
            self.end(-number)


@dataclass
class Nursery:
    """Starts fake children, and sees that there is never more than one."""

    children: list[FakeChild] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    now: float = 0.0
    heeds: frozenset[int] = frozenset({signal.SIGTERM, signal.SIGKILL})

    async def start(self) -> FakeChild:
        assert all(child.returncode is not None for child in self.children), "two at once"
        if self.failures:
            raise self.failures.pop(0)
        child = FakeChild(100 + len(self.children), heeds=self.heeds)
        self.children.append(child)
        return child

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def supervisor(self, log: Any, pids: list[int]) -> EnvoySupervisor:
        return EnvoySupervisor(
            self.start,
            on_pid=pids.append,
            last_words=lambda: "its last words",
            log=log,
            draw=lambda: 0.0,
            sleep=self.sleep,
            clock=lambda: self.now,
        )


async def test_envoy_is_started_again_later_each_time(log: Any, until: Callable[..., Any]) -> None:
    nursery, pids = Nursery(), []
    supervisor = nursery.supervisor(log, pids)
    task = asyncio.create_task(supervisor.run())
    for number in range(9):
        await until(lambda number=number: len(nursery.children) > number)
        nursery.children[number].end(-11)
    await until(lambda: len(nursery.slept) == 9)
    assert nursery.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert pids[:4] == [100, 0, 101, 0]
    assert "its last words" in log.said("envoy ended")[0]
    assert supervisor.restarts == 9
    await supervisor.stop()
    await task


async def test_having_run_long_it_is_started_at_once(log: Any, until: Callable[..., Any]) -> None:
    nursery = Nursery()
    supervisor = nursery.supervisor(log, [])
    task = asyncio.create_task(supervisor.run())
    for number in range(3):
        await until(lambda number=number: len(nursery.children) > number)
        nursery.now += 31 if number == 2 else 0
        nursery.children[number].end(1)
    await until(lambda: len(nursery.slept) == 3)
    assert nursery.slept == [0.1, 0.2, 0.1]
    await supervisor.stop()
    await task


async def test_stop_ends_it_and_starts_none(log: Any, until: Callable[..., Any]) -> None:
    nursery = Nursery()
    supervisor = nursery.supervisor(log, [])
    task = asyncio.create_task(supervisor.run())
    await until(lambda: nursery.children)
    await supervisor.stop()
    await task
    assert [child.signals for child in nursery.children] == [[signal.SIGTERM]]


async def test_what_does_not_stop_is_killed(log: Any, until: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("lateen.agent.envoy.STOP_SECONDS", 0.01)
    nursery = Nursery(heeds=frozenset({signal.SIGKILL}))
    supervisor = nursery.supervisor(log, [])
    task = asyncio.create_task(supervisor.run())
    await until(lambda: nursery.children)
    await supervisor.stop()
    await task
    assert nursery.children[0].signals == [signal.SIGTERM, signal.SIGKILL]


async def test_cancelled_it_is_killed(log: Any, until: Callable[..., Any]) -> None:
    nursery = Nursery()
    task = asyncio.create_task(nursery.supervisor(log, []).run())
    await until(lambda: nursery.children)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert nursery.children[0].signals == [signal.SIGKILL]


async def test_the_first_start_that_fails_is_told_later_ones_are_tried_again(
    log: Any, until: Callable[..., Any]
) -> None:
    with pytest.raises(BadInput):
        await Nursery(failures=[BadInput("no such file")]).supervisor(log, []).run()
    nursery = Nursery()
    task = asyncio.create_task(nursery.supervisor(log, []).run())
    await until(lambda: nursery.children)
    nursery.failures = [Unavailable("out of processes")]
    nursery.children[0].end(1)
    await until(lambda: len(nursery.children) == 2)
    assert log.said("envoy not started")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_envoys_command_line() -> None:
    argv = envoy_arguments(Path("/e"), Path("/b.json"), concurrency=2, log_level="info")
    pairs = dict(itertools.pairwise(argv))
    assert argv[0] == "/e"
    assert (pairs["-c"], pairs["--concurrency"], pairs["-l"]) == ("/b.json", "2", "info")
    assert "--disable-hot-restart" in argv


def test_envoy_is_found() -> None:
    assert find_envoy().name == "envoy"


# ---- the application


def make_app(
    nursery: Nursery,
    log: Any,
    *,
    found: list[Listening],
    told: list[bool],
    targets: frozenset[int] = frozenset({80}),
) -> Application:
    return Application(
        nursery.start,
        targets=targets,
        loopback=frozenset(),
        on_pid=lambda _: None,
        on_listening=told.append,
        log=log,
        read=lambda _: found[0] if len(found) == 1 else found.pop(0),
        sleep=nursery.sleep,
    )


async def test_an_application_is_watched_until_it_listens_and_after(log: Any, until: Callable[..., Any]) -> None:
    nursery, told = Nursery(), []
    yes, no = Listening(frozenset({80, 81})), Listening()
    app = make_app(nursery, log, found=[no, no, yes, yes, no, yes], told=told)
    task = asyncio.create_task(app.run())
    await until(lambda: len(told) == 4)
    assert told == [False, True, False, True]
    assert nursery.slept[:6] == [0.05, 0.05, 1.0, 1.0, 0.05, 1.0]
    nursery.children[0].end(3)
    assert await task == 3
    assert told[-1] is False


async def test_loopback_only_is_told(log: Any, until: Callable[..., Any]) -> None:
    nursery, told = Nursery(), []
    app = make_app(nursery, log, found=[Listening(loopback=frozenset({80}))], told=told)
    task = asyncio.create_task(app.run())
    await until(lambda: log.said("application listens on loopback only"))
    nursery.children[0].end(0)
    await task
    assert told == [False, False]


async def test_it_gets_the_signal_and_then_sigkill(log: Any, until: Callable[..., Any], monkeypatch: Any) -> None:
    killed: list[tuple[int, int]] = []
    nursery = Nursery(heeds=frozenset())
    app = make_app(nursery, log, found=[Listening()], told=[])

    def killpg(pid: int, number: int) -> None:
        killed.append((pid, number))
        nursery.children[0].end(-number)

    monkeypatch.setattr("os.killpg", killpg)
    task = asyncio.create_task(app.run())
    await until(lambda: nursery.children)
    await app.stop(signal.SIGINT, seconds=0.01)
    assert await task == 128 + 9
    assert nursery.children[0].signals == [signal.SIGINT]
    assert killed[0] == (100, signal.SIGKILL)


@pytest.mark.parametrize(("returncode", "code"), [(0, 0), (3, 3), (-15, 143), (-9, 137)])
def test_exit_codes(returncode: int, code: int) -> None:
    assert exit_code(returncode) == code


def test_missing_ports() -> None:
    found = Listening(frozenset({80}), frozenset({81}))
    assert missing_ports(frozenset({80, 81, 82}), found, loopback=frozenset()) == {81, 82}
    assert missing_ports(frozenset({80, 81, 82}), found, loopback=frozenset({80, 81, 82})) == {82}


SPEC = WorkloadSpec(
    name="a",
    argv=("x",),
    env={"A": "b", "PORT": "1"},
    ports=(WorkloadPort(name="http", number=80, target=8080), WorkloadPort(name="http-m", number=81, target=8081)),
)


def test_environment_in_a_network_of_its_own() -> None:
    env = app_environment(SPEC, Place(mode="capture", ip="10.77.0.2"))
    assert env == {"A": "b", "PORT": "1", "PORT_HTTP": "8080", "PORT_HTTP_M": "8081"}


def test_environment_in_explicit_mode() -> None:
    env = app_environment(SPEC, Place(mode="explicit", ip="127.77.0.2", http_proxy_port=4000))
    assert env["PORT"] == "8080"
    assert env["BIND"] == "127.0.0.1"
    assert env["http_proxy"] == env["HTTP_PROXY"] == "http://127.0.0.1:4000"
    assert "localhost" in env["no_proxy"]


# ---- who listens


def test_listening_is_read_from_the_kernels_tables() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    tcp = head + "\n".join(
        [
            "   0: 00000000:2378 00000000:0000 0A 0:0 0:0 0 0 0 1",  # 0.0.0.0:9080
            "   1: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 1",  # 127.0.0.1:8080
            "   2: 0200004D:0050 00000000:0000 01 0:0 0:0 0 0 0 1",  # established
            "   3: 0200004D:0051 00000000:0000 0A 0:0 0:0 0 0 0 1",  # an address of its own, port 81
            "junk",
        ]
    )
    tcp6 = head + "\n".join(
        [
            "   0: 00000000000000000000000000000000:0016 0:0 0A",  # [::]:22
            "   1: 00000000000000000000000001000000:0017 0:0 0A",  # [::1]:23
            "   2: 0000000000000000FFFF00000100007F:0018 0:0 0A",  # [::ffff:127.0.0.1]:24
            "   3: 00000000000000000000000001000000:0016 0:0 0A",  # [::1]:22 as well
        ]
    )
    assert parse_listening([tcp, tcp6]) == Listening(frozenset({9080, 81, 22}), frozenset({8080, 23, 24}))


def test_listening_of_a_real_process() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert port not in read_listening(1).all() | Listening().all()
        sock.listen()
        assert port in read_listening(os.getpid()).loopback
    assert read_listening(2**22 + 1) == Listening()


# ---- looking at the proxy

READY = ProxyState(live=True, clusters=True, listeners=True)
STATS = {
    "server.state": 0,
    "listener_manager.workers_started": 1,
    "cluster_manager.cds.update_success": 1,
    "listener_manager.lds.update_success": 1,
}


class FakeAdmin:
    def __init__(self, *answers: dict[str, int] | None) -> None:
        self.answers = list(answers)

    async def stats(self, _: str) -> dict[str, int]:
        answer = self.answers.pop(0)
        if answer is None:
            raise Unavailable("away")
        return answer


async def test_one_look_without_an_answer_is_not_the_end() -> None:
    seen: list[ProxyState] = []
    monitor = ProxyMonitor(FakeAdmin(STATS, None, None, STATS, None, None, None), seen.append)  # type: ignore[arg-type]
    for _ in range(7):
        await monitor.look()
    assert seen == [READY, ProxyState()]


async def test_a_restart_is_known_at_once() -> None:
    seen: list[ProxyState] = []
    monitor = ProxyMonitor(FakeAdmin(STATS), seen.append)  # type: ignore[arg-type]
    await monitor.look()
    monitor.restarted()
    assert seen == [READY, ProxyState()]
