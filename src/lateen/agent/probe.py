"""Is the application well? A helper in the workload's network asks it; here is decided what its answers mean.

In:  one `Probe`, and how to start a program beside the application.
Out: `Health`, told whenever an answer came.
Rules: Kubernetes' readiness probes as Istio takes them over for WorkloadGroups, docs/api/WorkloadGroup.md.

The agent itself is in the host's network and cannot reach the application; a process that is inside and stays costs
less than one that is started for each question.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

import lateen
from lateen.agent.backoff import Backoff
from lateen.agent.log import Log
from lateen.errors import LateenError
from lateen.wire.local import Probe, WorkloadPort

__all__ = ["Health", "after", "at_the_workload", "prober_arguments", "run_probe"]

LOOPBACK: Final = "127.0.0.1"
MAX_REASON_CHARACTERS: Final = 200  # of what an application may make the agent say about it
FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 10.0
SLACK_SECONDS: Final = 5.0  # beyond the time that a question and the pause before it may take
_SOURCE: Final = str(Path(lateen.__file__).parent.parent)
_BOOT: Final = "import sys; sys.path.append(sys.argv.pop(1)); from lateen.agent.prober import main; main(sys.argv[1])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of the application. `ill` is the complaint, "" when it is well."""

    ill: str = "not probed yet"
    streak: int = 0  # answers in a row that speak against what is thought


def after(health: Health, complaint: str, probe: Probe) -> Health:
    """Return what one more answer makes of `health`. `complaint`: why the probe failed, "" when it succeeded."""
    if bool(complaint) == bool(health.ill):
        # It stays as it was; the newest complaint is the one to tell, once there has been a first judgement.
        return Health(ill=complaint)
    streak = health.streak + 1
    wanted = probe.failure_threshold if complaint else probe.success_threshold
    return Health(ill=complaint) if streak >= wanted else replace(health, streak=streak)


def at_the_workload(probe: Probe, *, ip: str, ports: Sequence[WorkloadPort]) -> Probe:
    """Return `probe` with the host that it asks; without `ip`, in explicit mode, the port where the application is."""
    if ip:
        return msgspec.structs.replace(probe, host=probe.host or ip)
    target = next((port.target for port in ports if port.number == probe.port), probe.port)
    return msgspec.structs.replace(probe, host=probe.host or LOOPBACK, port=target)


def prober_arguments(probe: Probe) -> list[str]:
    """Return the command line of the helper."""
    return [sys.executable, "-I", "-S", "-c", _BOOT, _SOURCE, msgspec.json.encode(probe).decode()]


async def run_probe(
    probe: Probe,
    start: Callable[[list[str]], Awaitable[Process]],
    *,
    on_health: Callable[[Health], None],
    log: Log,
    draw: Callable[[], float],
) -> None:
    """Ask until cancelled, which ends the helper. One that ends by itself is started again, and counts as a failure."""
    health = Health()
    backoff = Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS, draw=draw)
    while True:
        complaint = "its helper ended"
        try:
            child = await start(prober_arguments(probe))
        except LateenError as error:
            complaint = str(error)
        else:
            try:
                while (line := await _answer(child, probe)) is not None:
                    backoff.reset()
                    health = after(health, line, probe)
                    on_health(health)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        log.warning("probe failed to run", reason=complaint)
        health = after(health, f"the probe failed to run: {complaint}", probe)
        on_health(health)
        await asyncio.sleep(backoff.wait())


async def _answer(child: Process, probe: Probe) -> str | None:
    """Return the next complaint, "" for none; None when the helper says nothing any more."""
    seconds = probe.initial_delay_seconds + probe.period_seconds + probe.timeout_seconds + SLACK_SECONDS
    assert child.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            line = await child.stdout.readline()
    except (TimeoutError, ValueError):  # silent, or a line without end
        return None
    if not line.endswith(b"\n"):
        return None
    return line[:-1].decode(errors="replace")[:MAX_REASON_CHARACTERS]
