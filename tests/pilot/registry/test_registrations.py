"""Registrations: kept over restarts, withdrawn with their agent, never taken over by another."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lateen.errors import BadInput, Refused
from lateen.net.process import start_ticks
from lateen.pilot.registry.registrations import Registrations
from lateen.wire.local import Registration, WorkloadPort

Told = list[tuple[str, bool]]


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def make(pid: int, **fields: object) -> Registration:
    ticks = start_ticks(pid)
    assert ticks is not None
    values: dict[str, object] = {
        "name": "reviews-v1",
        "ip": "10.77.0.2",
        "pid": pid,
        "start_ticks": ticks,
        "ready": True,
    }
    return Registration(**{**values, **fields})  # type: ignore[arg-type]  # named by the tests


async def test_a_registration_outlives_the_control_plane(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    told: Told = []
    first = Registrations(tmp_path, lambda name, value: told.append((name, value is not None)))
    registration = make(agent.pid)
    first.put(registration)
    first.put(registration)
    assert told == [("reviews-v1", True)]
    first.close()
    second = Registrations(tmp_path, lambda name, value: told.append((name, value is not None)))
    second.load()
    assert list(second) == [registration]
    second.close()


async def test_an_agent_that_dies_is_withdrawn(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    gone = asyncio.Event()
    registrations = Registrations(tmp_path, lambda name, value: gone.set() if value is None else None)
    registrations.put(make(agent.pid))
    agent.kill()
    async with asyncio.timeout(5):
        await gone.wait()
    assert list(registrations) == []
    assert list(tmp_path.iterdir()) == []


async def test_what_dead_agents_left_is_removed_on_load(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    registrations = Registrations(tmp_path, lambda name, value: None)
    registrations.put(make(agent.pid))
    registrations.close()
    (tmp_path / "half.json").write_text('{"name": "ha')
    stale = make(os.getpid(), name="stale", start_ticks=1)
    (tmp_path / "stale.json").write_bytes(msgspec.json.encode(stale))
    agent.kill()
    agent.wait()
    again = Registrations(tmp_path, lambda name, value: None)
    again.load()
    assert list(again) == []
    assert list(tmp_path.iterdir()) == []


async def test_a_name_belongs_to_the_agent_that_lives(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    registrations = Registrations(tmp_path, lambda name, value: None)
    registrations.put(make(agent.pid))
    with pytest.raises(Refused, match="runs already"):
        registrations.put(make(os.getpid()))
    registrations.remove("reviews-v1", os.getpid())
    assert [registration.pid for registration in registrations] == [agent.pid]
    registrations.remove("reviews-v1", agent.pid)
    assert list(registrations) == []
    registrations.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"name": "../x"}, "name must be a DNS label", id="name"),
        pytest.param({"namespace": ""}, "namespace must be a DNS label", id="namespace"),
        pytest.param({"locality": "eu/*"}, "locality: must be region", id="locality"),
        pytest.param({"kind": "waypoint"}, "kind must be", id="kind"),
        pytest.param({"ports": (WorkloadPort(name="a", number=0, target=1),)}, "between 1 and 65535", id="port"),
        pytest.param({"ports": (WorkloadPort(name="a", number=1, target=1),) * 2}, "unique", id="port twice"),
        pytest.param({"pid": 2**22 + 5}, "no process", id="no such process"),
    ],
)
async def test_what_cannot_be_is_refused(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    registrations = Registrations(tmp_path, lambda name, value: None)
    registration = msgspec.structs.replace(make(os.getpid()), **fields)
    with pytest.raises(BadInput, match=message):
        registrations.put(registration)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": {"app": "\x1b[2J"}},
        {"labels": {"a\x9b": "x"}},
        {"labels": {f"l{number}": "" for number in range(257)}},
        {"version": "v" * 513},
        {"network": "n\0"},
        {"ports": (WorkloadPort(name="http\r", number=80, target=80),)},
    ],
    ids=["label", "label's name", "many labels", "long text", "network", "port's name"],
)
async def test_texts_of_an_agent_command_no_terminal(
    tmp_path: Path, agent: subprocess.Popen[bytes], fields: dict[str, object]
) -> None:
    registrations = Registrations(tmp_path, lambda name, value: None)
    with pytest.raises(BadInput) as caught:
        registrations.put(make(agent.pid, **fields))
    assert str(caught.value).isprintable()
    # What Envoy said is for people, and is kept as far as it can be shown.
    registrations.put(make(agent.pid, bootstrap={"default/f#0": "no \x1b[31mway"}, waits_for="\x9bthe proxy"))
    (kept,) = registrations
    assert (kept.bootstrap, kept.waits_for) == ({"default/f#0": "no ?[31mway"}, "?the proxy")
    registrations.close()
