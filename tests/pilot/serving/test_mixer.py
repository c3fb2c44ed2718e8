"""Mixer as a child: started when a rule needs it, given rules and a certificate, ended when it hangs, started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lateen.citadel.authority import Authority, IssuedChain
from lateen.citadel.roots import Roots
from lateen.pilot.serving.mixer import MixerKeeper
from lateen.wire.mixer import MIXER_ACCOUNT, MIXER_NAMESPACE, RuleText
from lateen.wire.spiffe import SpiffeId

COMMAND = (sys.executable, "-m", "tests.fakes.mixer_serve")
RULE = RuleText(
    file="mesh/app.yaml",
    line=3,
    resource={
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"hosts": ["a.example"], "ports": [{"number": 80, "name": "http"}], "resolution": "DNS"},
    },
)
WAIT_SECONDS = 30.0


class Keeper:
    def __init__(self, folder: Path) -> None:
        self.authority: Authority = Roots.open(folder / "ca", "cluster.local").authority
        self.sock = folder / "m.sock"
        self.signed = 0
        self.changes = 0
        self.keeper = MixerKeeper(
            self.sock,
            self.sign,
            lambda: (self.authority.root_pem, frozenset()),
            trust_domain="cluster.local",
            command=COMMAND,
            on_change=self.note,
        )

    def note(self) -> None:
        self.changes += 1

    async def sign(self, csr: bytes) -> IssuedChain:
        self.signed += 1
        who = SpiffeId("cluster.local", MIXER_NAMESPACE, MIXER_ACCOUNT)
        return self.authority.issue(csr, who, timedelta(hours=1))


@asynccontextmanager
async def kept(tmp_path: Path) -> AsyncIterator[Keeper]:
    keeper = Keeper(tmp_path)
    running = asyncio.create_task(keeper.keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds():  # noqa: ASYNC110  # another process's state has no event
            await asyncio.sleep(0.02)


def serving(keeper: Keeper) -> bool:
    info = keeper.keeper.info()
    return info is not None and info.state == "serving"


async def test_it_runs_while_a_rule_needs_it(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        await asyncio.sleep(0.1)
        assert keeper.keeper.info() is None
        assert keeper.keeper.pid == 0
        keeper.keeper.want([RULE])
        await until(lambda: serving(keeper))
        pid = keeper.keeper.pid
        assert keeper.signed == 1
        assert keeper.sock.stat().st_mode & 0o777 == 0o600
        assert [(one.file, one.line) for one in keeper.keeper.problems()] == [("mesh/app.yaml", 3)]
        assert "fake_rules 1" in keeper.keeper.metrics()
        keeper.keeper.want([])
        await until(lambda: keeper.keeper.pid == 0)
        assert not Path(f"/proc/{pid}").exists()
        assert keeper.keeper.info() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stands-still"])
async def test_it_comes_back(tmp_path: Path, number: signal.Signals) -> None:
    async with kept(tmp_path) as keeper:
        keeper.keeper.want([RULE])
        await until(lambda: serving(keeper))
        first = keeper.keeper.pid
        os.kill(first, number)
        await until(lambda: keeper.keeper.pid not in (0, first) and serving(keeper))
        assert keeper.keeper.starts == 2
        assert keeper.signed == 2  # with a key of its own
        assert not Path(f"/proc/{first}").exists()


async def test_one_that_does_not_end_is_ended_with_the_control_plane(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        keeper.keeper.want([RULE])
        await until(lambda: serving(keeper))
        pid = keeper.keeper.pid
        os.kill(pid, signal.SIGSTOP)
        keeper.keeper.want([])
        await until(lambda: (info := keeper.keeper.info()) is not None and info.state == "ending")
        assert keeper.keeper.pid == pid
    assert not Path(f"/proc/{pid}").exists()


async def test_new_rules_reach_the_one_that_runs(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        keeper.keeper.want([RULE])
        await until(lambda: serving(keeper))
        pid = keeper.keeper.pid
        resource = {**RULE.resource, "metadata": {"name": "b", "namespace": "default"}}
        keeper.keeper.want([RULE, RuleText(file="mesh/b.yaml", line=1, resource=resource)])
        await until(lambda: serving(keeper) and "fake_rules 2" in keeper.keeper.metrics())
        assert (keeper.keeper.pid, keeper.keeper.starts) == (pid, 1)


async def test_it_ends_with_the_control_plane(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        keeper.keeper.want([RULE])
        await until(lambda: serving(keeper))
        pid = keeper.keeper.pid
    assert not Path(f"/proc/{pid}").exists()


async def test_one_that_cannot_be_spoken_to_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = asyncio.open_unix_connection
    pids: list[int] = []

    async def fails_once(*args: Any, **more: Any) -> Any:
        if not pids:
            pids.append(keeper.keeper.pid)
            raise OSError(24, "Too many open files")
        return await connect(*args, **more)

    monkeypatch.setattr(asyncio, "open_unix_connection", fails_once)
    async with kept(tmp_path) as keeper:
        keeper.keeper.want([RULE])
        await until(lambda: serving(keeper))
        assert pids[0]
        assert keeper.keeper.pid != pids[0]
        assert not Path(f"/proc/{pids[0]}").exists()
