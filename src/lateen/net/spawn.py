"""Start a process in the network of a workload, as its proxy or as its application.

The child dies with the caller's *thread* (prctl(2), PR_SET_PDEATHSIG), so call this from the thread that lives as long
as the agent: the main one. What a dead child leaves behind in the workload's network (grandchildren) is killed by the
holder when the lease ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import lateen
from lateen.errors import BadInput, Unavailable
from lateen.net.client import Attachment
from lateen.net.launch import ALONE, AS_IT_IS, Plan

__all__ = ["Role", "ends_within", "spawn"]

Role = Literal["proxy", "app"]

LAUNCH_SECONDS = 10.0
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from lateen.net.launch import main; main()"
_SOURCE = str(Path(lateen.__file__).parent.parent)
_REPORT_BYTES = 4096


class _Waitable(Protocol):
    async def wait(self) -> int: ...


async def ends_within(child: _Waitable, seconds: float) -> bool:
    """Wait for the end of a process; False when it takes longer.

    Also in a task that was cancelled, and tidies up: there `asyncio.timeout` of Python 3.11.2, Debian 12's, raises
    CancelledError when the time is over, and whoever waited never gets to end the process. `asyncio.wait_for` does not.
    """
    try:
        await asyncio.wait_for(child.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def spawn(
    argv: Sequence[str],
    *,
    attachment: Attachment | None,
    env: Mapping[str, str],
    cwd: str | Path | None = None,
    role: Role,
    resolv_conf: str | Path | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pdeathsig: int = signal.SIGKILL,
    own_session: bool = True,
    alone: bool = False,
    core_limit: int | None = None,
) -> Process:
    """Start `argv` and return once it runs: its pid is that of the program itself, not of a wrapper.

    attachment   the network to run in; None for the host's (explicit mode), where `role` and `resolv_conf` mean nothing
    env          the whole environment; `argv[0]` is looked up in its PATH
    role         "proxy" keeps CAP_NET_ADMIN (for SO_MARK), CAP_NET_BIND_SERVICE and CAP_DAC_OVERRIDE only. "app" keeps
                 the user's own id, and cannot set marks or change the capture rules
    resolv_conf  file to show as /etc/resolv.conf; lookups by way of the host's resolver daemons are shut off as well
    alone        True, with no attachment: in an empty network of its own, where the machine allows that
    core_limit   of an application's core dumps, in bytes, -1 for any size; None: as its parent's. A proxy leaves none
    own_session  True: setsid(2), so a terminal's Ctrl-C reaches the agent only, which then stops its children in order

    Raises `BadInput` when the program is not there or may not be run, `Unavailable` when the namespaces are gone.
    Cancelled: the child is killed.
    """
    if not argv:
        raise BadInput("command: must not be empty")
    report, report_end = os.pipe()
    try:
        core = AS_IT_IS if core_limit is None else core_limit
        plan = _plan(attachment, role, env, resolv_conf, pdeathsig, report_end, alone, core)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _BOOT, _SOURCE, *plan.arguments(), *argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(env),
            cwd=cwd,
            pass_fds=[fd for fd in (plan.report, plan.netns, plan.userns) if fd >= 0],
            start_new_session=own_session,
        )
    except BaseException as error:
        os.close(report)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise BadInput(f"working directory {str(cwd)!r}: {error.strerror}") from error
        raise
    finally:
        os.close(report_end)
    try:
        async with asyncio.timeout(LAUNCH_SECONDS):
            failure = await _read_report(report)
    except BaseException as error:
        await _kill(process)
        if isinstance(error, TimeoutError):
            raise Unavailable(f"command {argv[0]!r}: not started after {LAUNCH_SECONDS:.0f} s") from error
        raise
    finally:
        os.close(report)
    if failure:
        await process.wait()
        number, _, message = failure.partition("\n")
        if message.startswith(f"{argv[0]}: "):
            raise BadInput(f"command {message}")
        raise Unavailable(f"command {argv[0]!r}: cannot enter its network (errno {number}): {message}")
    return process


def _plan(
    attachment: Attachment | None,
    role: Role,
    env: Mapping[str, str],
    resolv_conf: str | Path | None,
    pdeathsig: int,
    report: int,
    alone: bool,
    core: int,
) -> Plan:
    userns = None if attachment is None else attachment.userns_fd
    return Plan(
        parent=os.getpid(),
        signal=pdeathsig,
        report=report,
        netns=attachment.netns_fd if attachment is not None else ALONE if alone else -1,
        userns=-1 if userns is None else userns,
        app=int(role == "app"),
        uid=os.geteuid(),
        gid=os.getegid(),
        drop_lc_ctype=int("LC_CTYPE" not in env),
        core=core,
        resolv_conf="" if resolv_conf is None else os.path.abspath(resolv_conf),
    )


async def _read_report(fd: int) -> str:
    """Return what the launcher has to say; "" when it has become the program, which closes the pipe."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    parts: list[bytes] = []
    while True:
        readable = loop.create_future()
        loop.add_reader(fd, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(fd)
        part = os.read(fd, _REPORT_BYTES)
        if not part:
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
