"""Leases on the holder: what they give, who may, and that everything ends with them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lateen.errors import BadInput, Refused, Unavailable
from lateen.net.capture import Capture
from lateen.net.client import Lease, connect, ensure_holder
from lateen.settings import Settings

from .conftest import INSIDE, is_gone, until

pytestmark = pytest.mark.netns

# A process of its own with a lease, a workload `victim`, and in there a child and an orphaned grandchild.
AGENT = """
import asyncio, subprocess, sys
from pathlib import Path
from lateen.net.client import connect
from lateen.net.capture import Capture
from lateen.net.spawn import spawn
from lateen.settings import Settings

async def main():
    lease = connect(Settings(state=Path(sys.argv[1])))
    attachment = lease.attach("victim", Capture())
    script = "sleep 1000 & echo $!; exec sleep 1000"
    child = await spawn(["sh", "-c", script], attachment=attachment, env={"PATH": "/usr/bin:/bin"}, role="app",
                        stdout=subprocess.PIPE)
    grandchild = int(await child.stdout.readline())
    print(attachment.ip, child.pid, grandchild, flush=True)
    await child.wait()

asyncio.run(main())
"""


@pytest.fixture
def agent(settings: Settings, lease: Lease) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(settings.state)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_the_mode_is_what_this_user_can_have(shared_lease: Lease) -> None:
    assert shared_lease.mode == ("root" if os.geteuid() == 0 else "rootless")


def test_what_an_attachment_holds(lease: Lease) -> None:
    attachment = lease.attach("reviews-v1", Capture())
    assert (attachment.ip, attachment.prefix_len, attachment.gateway) == ("10.77.0.2", 16, "10.77.0.1")
    assert {name: sock.getsockname() for name, sock in attachment.sockets.items()} == {
        "dns-udp": ("127.0.0.1", 15053),
        "dns-tcp": ("127.0.0.1", 15053),
        "proxy-dns-udp": ("127.0.0.1", 15054),
        "proxy-dns-tcp": ("127.0.0.1", 15054),
        "health": ("0.0.0.0", 15021),
        "metrics": ("0.0.0.0", 15020),
    }
    assert attachment.sockets["dns-udp"].type == socket.SOCK_DGRAM
    assert not any(sock.getblocking() for sock in attachment.sockets.values())
    assert not any(os.get_inheritable(sock.fileno()) for sock in attachment.sockets.values())
    assert os.fstat(attachment.netns_fd).st_ino != os.stat("/proc/self/ns/net").st_ino
    assert (attachment.userns_fd is None) is (lease.mode == "root")
    assert lease.info().workloads == {"reviews-v1": "10.77.0.2"}
    attachment.close()


def test_an_attach_is_fast(shared_lease: Lease) -> None:
    took = []
    for number in range(5):
        begin = time.perf_counter()
        shared_lease.attach(f"w{number}", Capture()).close()
        took.append(time.perf_counter() - begin)
    assert min(took) < 0.030  # 0.002 on a quiet machine


def test_a_name_keeps_its_address(settings: Settings, lease: Lease) -> None:
    with connect(settings) as one:
        first = one.attach("a", Capture())
        one.attach("b", None).close()
        first.close()
        one.release("a")
        assert one.info().workloads == {"b": "10.77.0.3"}
        one.attach("c", None).close()
        again = one.attach("a", Capture())
        assert again.ip == first.ip
        again.close()


def test_a_name_is_one_leases_at_a_time(settings: Settings, lease: Lease) -> None:
    lease.attach("a", None).close()
    with connect(settings) as other:
        with pytest.raises(Refused, match="workload 'a' is attached already"):
            other.attach("a", None)
        with pytest.raises(Refused, match="'a' is not one of this lease"):
            other.release("a")
        lease.close()
        other.attach("a", None).close()  # at once: the end of the other lease is noticed here at the latest


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
def test_a_name_that_cannot_be(shared_lease: Lease, name: str) -> None:
    with pytest.raises(BadInput, match="workload name"):
        shared_lease.attach(name, None)


def test_a_capture_that_cannot_be_is_refused_before_it_is_sent(shared_lease: Lease) -> None:
    with pytest.raises(BadInput, match="outbound_port"):
        shared_lease.attach("a", Capture(outbound_port=0))
    assert shared_lease.info().workloads == {}


async def test_a_killed_agent_leaves_nothing(settings: Settings, lease: Lease, agent: subprocess.Popen[str]) -> None:
    assert agent.stdout
    ip, child, grandchild = agent.stdout.readline().split()
    assert lease.info().workloads == {"victim": ip}
    link = f"lt{int(ip.split('.')[3]):04x}"
    assert link in Path(f"/proc/{lease.holder_pid}/net/dev").read_text()
    agent.send_signal(signal.SIGKILL)
    await until(lambda: is_gone(int(child)), "the child dies with its parent")
    await until(lambda: is_gone(int(grandchild)), "the grandchild is killed by the holder")
    assert lease.info().workloads == {}
    assert link not in Path(f"/proc/{lease.holder_pid}/net/dev").read_text()


async def test_the_holder_ends_after_its_last_lease(settings: Settings) -> None:
    lease = ensure_holder(settings, outside=False)
    pid = lease.holder_pid
    second = connect(settings)
    lease.close()
    assert second.info().pid == pid
    second.close()
    await until(lambda: is_gone(pid), "the holder ends")
    assert list(settings.run.iterdir()) == []
    with pytest.raises(Unavailable, match="no network holder at"):
        connect(settings)


def test_stopping_waits_for_others(settings: Settings) -> None:
    lease, other = ensure_holder(settings, outside=False), connect(settings)
    lease.close_and_stop()
    assert other.info().pid == other.holder_pid
    other.close_and_stop()
    assert list(settings.run.iterdir()) == []


def test_everybody_gets_the_same_holder(settings: Settings) -> None:
    leases: list[Lease] = []
    threads = [threading.Thread(target=lambda: leases.append(ensure_holder(settings, outside=False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) == 4
    assert len({lease.holder_pid for lease in leases}) == 1
    for lease in leases:
        lease.close()


async def test_a_dead_holders_socket_is_replaced(settings: Settings) -> None:
    lease = ensure_holder(settings, outside=False)
    attachment = lease.attach("a", None)
    os.kill(lease.holder_pid, signal.SIGKILL)
    await until(lambda: is_gone(lease.holder_pid), "the holder dies")
    assert settings.net_socket.exists()
    with pytest.raises(Unavailable, match="network holder"):
        lease.info()
    lease.close()
    attachment.close()
    with ensure_holder(settings, outside=False) as again:
        assert again.holder_pid != lease.holder_pid
        again.attach("a", None).close()


async def test_a_holder_told_to_end_leaves_nothing(settings: Settings, agent: subprocess.Popen[str]) -> None:
    assert agent.stdout
    _, child, grandchild = agent.stdout.readline().split()
    with connect(settings) as lease:
        os.kill(lease.holder_pid, signal.SIGTERM)
        await until(lambda: is_gone(lease.holder_pid), "the holder ends")
    assert is_gone(int(child))
    assert is_gone(int(grandchild))
    assert list(settings.run.iterdir()) == []


def test_one_holder_at_a_time(settings: Settings, lease: Lease) -> None:
    command = [sys.executable, "-m", "lateen.net.holder", "--state", str(settings.state)]
    assert subprocess.run(command, check=False).returncode == 0
    assert lease.info().pid == lease.holder_pid
    with connect(settings) as other:
        assert other.holder_pid == lease.holder_pid


def test_a_state_folder_that_is_too_deep(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lateen.net.holder", "--state", str(tmp_path / ("x" * 90))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "too deep" in done.stderr


def raw(settings: Settings) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(settings.net_socket))
    return sock


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\xff\x00garbage", id="bytes"),
        pytest.param(b"{}", id="no-operation"),
        pytest.param(b'{"op":"attach"}', id="no-name"),
        pytest.param(b'{"op":"attach","name":1,"capture":null}', id="wrong-type"),
        pytest.param(b'{"op":"nonsense"}', id="unknown"),
        pytest.param(b'{"op":"info","more":1}', id="unknown-field"),
        pytest.param(b"[" * 60000, id="deep"),
        pytest.param(b'{"op":"forward","ip":"10.77.0.2","port":80}', id="no-socket"),
        pytest.param(b'{"op":"attach","name":"a","capture":{"mark":0}}', id="impossible-capture"),
    ],
)
def test_garbage_is_told_and_dropped(shared_settings: Settings, shared_lease: Lease, packet: bytes) -> None:
    with raw(shared_settings) as sock:
        sock.send(packet)
        assert b'"kind":"bad-input"' in sock.recv(65536)
        assert sock.recv(1) == b""
    assert shared_lease.info().workloads == {}


def test_an_oversized_packet_is_dropped(shared_settings: Settings, shared_lease: Lease) -> None:
    with raw(shared_settings) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.send(b" " * 70000)
        assert b"over 65536 bytes" in sock.recv(65536)
    assert shared_lease.info().workloads == {}


def test_too_many_descriptors_are_closed(shared_settings: Settings, shared_lease: Lease) -> None:
    before = len(os.listdir(f"/proc/{shared_lease.holder_pid}/fd")) if shared_lease.mode == "root" else None
    with raw(shared_settings) as sock:
        socket.send_fds(sock, [b'{"op":"info"}'], [sock.fileno()] * 100)
        assert b"bad-input" in sock.recv(65536)
    shared_lease.info()
    if before is not None:
        assert len(os.listdir(f"/proc/{shared_lease.holder_pid}/fd")) == before


def test_one_who_never_reads_harms_nobody(shared_settings: Settings, shared_lease: Lease) -> None:
    with raw(shared_settings) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            for _ in range(100000):
                sock.send(b'{"op":"info"}')
        assert shared_lease.info().pid == shared_lease.holder_pid


def test_many_connections(shared_settings: Settings, shared_lease: Lease) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(raw(shared_settings))  # half of a client: it never says a word
        assert shared_lease.info().pid == shared_lease.holder_pid
        with connect(shared_settings) as other:
            other.attach("a", None).close()
    assert shared_lease.info().pid == shared_lease.holder_pid


def test_inside_has_no_dependency() -> None:
    assert (
        subprocess.run([*INSIDE, "call", "127.0.0.1", "1"], capture_output=True, check=True).stdout == b"ECONNREFUSED"
    )
