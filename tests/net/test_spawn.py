"""What a child of the agent is, sees and may."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lateen.errors import BadInput, Unavailable
from lateen.net.capture import Capture
from lateen.net.client import Attachment, Lease
from lateen.net.process import start_ticks
from lateen.net.spawn import Role, ends_within, spawn
from lateen.settings import Settings

from .conftest import is_gone, run_inside, start_inside, stop, until

NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_PTRACE = 12, 13, 21, 19
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture
def attachment(shared_lease: Lease) -> Iterator[Attachment]:
    attachment = shared_lease.attach("a", Capture())
    yield attachment
    attachment.close()


async def output(
    argv: list[str],
    attachment: Attachment | None,
    role: Role = "app",
    *,
    env: dict[str, str] | None = None,
    resolv_conf: Path | None = None,
) -> str:
    process = await spawn(
        argv,
        attachment=attachment,
        env=PATH if env is None else env,
        role=role,
        resolv_conf=resolv_conf,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return out.decode()


async def capabilities(attachment: Attachment, role: Role) -> dict[str, int]:
    text = await output(["grep", "^Cap", "/proc/self/status"], attachment, role)
    return {line.split(":")[0]: int(line.split(":")[1], 16) for line in text.splitlines()}


@pytest.mark.netns
async def test_a_proxy_keeps_what_it_needs(attachment: Attachment) -> None:
    held = await capabilities(attachment, "proxy")
    wanted = 1 << 1 | 1 << 10 | 1 << NET_ADMIN
    assert held == {"CapInh": 0, "CapPrm": wanted, "CapEff": wanted, "CapBnd": wanted, "CapAmb": 0}


@pytest.mark.netns
async def test_an_application_holds_nothing_over_its_network(shared_lease: Lease, attachment: Attachment) -> None:
    held = await capabilities(attachment, "app")
    lost = 1 << NET_ADMIN | 1 << NET_RAW | 1 << SYS_ADMIN | 1 << SYS_PTRACE
    assert held["CapEff"] & lost == held["CapPrm"] & lost == 0
    if shared_lease.mode == "root":
        assert held["CapBnd"] & lost == 0
        assert held["CapEff"] != 0
    # In a user namespace of its own the bounding set says nothing: it is about the namespace below, not the network.
    assert await run_inside(attachment, "call", "10.77.0.1", "1", "1337") == "EPERM"


@pytest.mark.netns
async def test_an_application_is_its_user(attachment: Attachment) -> None:
    assert (await output(["id", "-u"], attachment)).strip() == str(os.geteuid())
    assert (await output(["id", "-g"], attachment)).strip() == str(os.getegid())


@pytest.mark.netns
async def test_an_application_cannot_join_the_hosts_or_the_proxys_namespaces(attachment: Attachment) -> None:
    proxy = await start_inside(attachment, "proxy", "15001", role="proxy")
    script = f"nsenter --net=/proc/{proxy.pid}/ns/net true; nsenter --user --net -t {os.getpid()} true"
    said = await output(["sh", "-c", script], attachment)
    await stop(proxy)
    assert said.count("Operation not permitted") + said.count("Permission denied") == 2, said


@pytest.mark.netns
async def test_an_application_may_bind_any_port_of_its_own(attachment: Attachment) -> None:
    await stop(await start_inside(attachment, "app", "80"))


@pytest.mark.netns
@pytest.mark.parametrize("role", ["proxy", "app"])
async def test_the_pid_is_that_of_the_program(attachment: Attachment, role: Role) -> None:
    process = await spawn(["sleep", "1000"], attachment=attachment, env=PATH, role=role)
    assert Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n"
    await stop(process)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.netns
async def test_resolv_conf_is_the_workloads_and_only_there(attachment: Attachment, tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\nsearch default.svc.cluster.local\n")
    before = Path("/etc/resolv.conf").read_text()
    said = await output(["cat", "/etc/resolv.conf"], attachment, resolv_conf=file)
    assert said == file.read_text()
    assert Path("/etc/resolv.conf").read_text() == before


# In a mount namespace of this process, /etc is a folder with nothing but /etc/resolv.conf, as `sys.argv[2]` says.
CHANGED_ETC = """
import asyncio, os, subprocess, sys
from pathlib import Path
from lateen.net import kernel
from lateen.net.client import ensure_holder
from lateen.net.spawn import spawn
from lateen.settings import Settings

state, kind = Path(sys.argv[1]), sys.argv[2]
uid, gid = os.geteuid(), os.getegid()
kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
kernel.map_user(0, 0, uid, gid)
etc = state / "etc"
etc.mkdir()
if kind == "link":
    (etc / "real.conf").write_text("nameserver 9.9.9.9\\n")
if kind != "absent":
    (etc / "resolv.conf").symlink_to("/etc/real.conf")
kernel.mount(str(etc), "/etc", kernel.MS_BIND)
mine = state / "resolv.conf"
mine.write_text("nameserver 127.0.0.1\\n")

async def main():
    with ensure_holder(Settings(state=state), outside=False) as lease:
        attachment = lease.attach("a", None)
        script = "cat /etc/resolv.conf 2>/dev/null || echo none"
        process = await spawn(["/bin/sh", "-c", script], attachment=attachment, env={"PATH": "/usr/bin:/bin"},
                              role="app", resolv_conf=mine, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        attachment.close()
        sys.stdout.write(out.decode())
        lease.close_and_stop()

asyncio.run(main())
"""


@pytest.mark.netns
@pytest.mark.parametrize(
    ("kind", "seen"), [("link", "nameserver 127.0.0.1\n"), ("dangling", "none\n"), ("absent", "none\n")]
)
def test_resolv_conf_of_every_kind(settings: Settings, kind: str, seen: str) -> None:
    command = [sys.executable, "-c", CHANGED_ETC, str(settings.state), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout, done.stderr) == (seen, "")
    if kind == "link":
        assert (settings.state / "etc/real.conf").read_text() == "nameserver 9.9.9.9\n"


@pytest.mark.netns
async def test_a_launch_is_fast(attachment: Attachment, tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("")
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        process = await spawn(["true"], attachment=attachment, env=PATH, role="app", resolv_conf=file)
        took.append(time.perf_counter() - begin)
        await process.wait()
    assert min(took) < 0.060  # 0.012 to 0.025 on a quiet machine


@pytest.mark.netns
async def test_namespaces_that_are_gone(attachment: Attachment) -> None:
    devnull = os.open("/dev/null", os.O_RDONLY)
    os.dup2(devnull, attachment.netns_fd)  # as after a mix-up of descriptors
    os.close(devnull)
    with pytest.raises(Unavailable, match="command 'true': cannot enter its network"):
        await spawn(["true"], attachment=attachment, env=PATH, role="app")


# From here on without an attachment: explicit mode.


async def test_the_environment_is_exactly_what_was_given() -> None:
    process = await spawn(
        ["/usr/bin/env"], attachment=None, env={"A": "b", "C": "\udcff"}, role="app", stdout=subprocess.PIPE
    )
    assert (await process.communicate())[0].splitlines() == [b"A=b", b"C=\xff"]  # Python's own additions are gone


async def test_signals_are_as_a_program_expects_them() -> None:
    ignored = (await output(["grep", "SigIgn", "/proc/self/status"], None)).split()[1]
    assert int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0


async def test_nothing_but_the_streams_is_inherited() -> None:
    assert (await output(["ls", "/proc/self/fd"], None)).split() == ["0", "1", "2", "3"]  # 3 is the folder being read


async def test_a_session_of_its_own() -> None:
    process = await spawn(["sleep", "1000"], attachment=None, env=PATH, role="app")
    assert os.getsid(process.pid) == process.pid
    await stop(process)
    process = await spawn(["sleep", "1000"], attachment=None, env=PATH, role="app", own_session=False)
    assert os.getsid(process.pid) == os.getsid(0)
    await stop(process)


async def test_the_working_directory(tmp_path: Path) -> None:
    process = await spawn(["pwd"], attachment=None, env=PATH, role="app", cwd=tmp_path, stdout=subprocess.PIPE)
    assert (await process.communicate())[0].decode().strip() == str(tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param([], "command: must not be empty", id="empty"),
        pytest.param(["no-such-program"], "command no-such-program: No such file or directory", id="not-there"),
        pytest.param(["/etc/passwd"], "command /etc/passwd: Permission denied", id="not-a-program"),
        pytest.param(["/"], "command /: Permission denied", id="a-folder"),
    ],
)
async def test_a_command_that_cannot_be(argv: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        await spawn(argv, attachment=None, env=PATH, role="app")


async def test_a_working_directory_that_is_not_there() -> None:
    with pytest.raises(BadInput, match="working directory '/no/such': No such file"):
        await spawn(["true"], attachment=None, env=PATH, role="app", cwd="/no/such")


PARENT = """
import asyncio, sys
from lateen.net.spawn import spawn

async def main():
    child = await spawn(["sleep", "1000"], attachment=None, env={"PATH": "/usr/bin:/bin"}, role="app")
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


async def test_a_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert start_ticks(child) is not None
    parent.kill()
    parent.communicate()
    await until(lambda: is_gone(child), "the child dies")


async def test_a_launch_that_is_cancelled_leaves_no_process() -> None:
    before = set(os.listdir("/proc/self/task"))
    task = asyncio.create_task(spawn(["sleep", "1000"], attachment=None, env=PATH, role="app"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    children = {
        child
        for thread in {*before, *os.listdir("/proc/self/task")}
        if os.path.exists(f"/proc/self/task/{thread}/children")
        for child in Path(f"/proc/self/task/{thread}/children").read_text().split()
        if "sleep" in Path(f"/proc/{child}/cmdline").read_text()
    }
    assert children == set()


async def test_the_end_of_a_child_is_waited_for_while_being_cancelled() -> None:
    """As in a `finally`: Debian 12's `asyncio.timeout` would raise CancelledError there, and nobody would end it."""
    child = await spawn(["sleep", "1000"], attachment=None, env=PATH, role="app")
    found: list[bool] = []

    async def tidy_up() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            found.append(await ends_within(child, 0.05))
            child.kill()
            found.append(await ends_within(child, 30))

    task = asyncio.create_task(tidy_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (found, task.cancelled()) == ([False, True], True)
