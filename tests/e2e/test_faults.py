"""Nonsense on every port and socket of a running mesh, and files that no editor should write: all goes on."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

SOCKETS = ("ca.sock", "xds.sock", "xds-local.sock", "net.sock")
INSIDE_PORTS = (15001, 15006, 15020, 15021, 15090, 9080)
PACKET = 100_000  # less than what one packet of a Unix socket may hold
STEADY_MEMORY_KB = 20 * 1024  # what a control plane may keep after nonsense: buffers of an allocator, no data
GRPC_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

NONSENSE = {
    "text": b"hello, who is there?\n\n" * 10,
    "zeros": b"\x00" * 4096,
    "ones": b"\xff" * 70_000,
    "http with a line without end": b"GET /" + b"a" * 200_000,
    "a head without end": b"GET / HTTP/1.1\r\n" + b"x-y: z\r\n" * 30_000,
    "tls that stops": b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + b"\x07" * 20,
    "http2 that stops": GRPC_PREFACE,
    "http2 with a huge frame": GRPC_PREFACE + EMPTY_SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"z" * 100_000,
    "http2 with unknown frames": GRPC_PREFACE + EMPTY_SETTINGS + b"\x00\x00\x04\xee\x00\x00\x00\x00\x00zzzz" * 500,
    "a length beyond reason": b"\x7f\xff\xff\xff" + b"{" * 1000,
    "json that nests": b"[" * 100_000,
}

ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: ["*"]
  gateways: [front]
  http:
  - route: [{destination: {host: echo}}]
    headers: {response: {set: {x-edition: "EDITION"}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ["*"]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("route.yaml", ROUTE.replace("EDITION", "0"))
        run.up()
        run.workload("echo", "v1", [sys.executable, str(ECHO)])
        run.gateway()
        run.wait_ready("echo-v1", "ingressgateway")
        eventually(lambda: run.get("/").status == 200, what="the first answer")
        yield run
    finally:
        run.close()


@pytest.fixture(autouse=True)
def _all_goes_on(mesh: MeshRun) -> Iterator[None]:
    """Whatever a test did: the same processes live, requests are answered, a change arrives within two seconds."""
    before = pids(mesh)
    yield
    for path in mesh.config.glob("test-*.yaml"):
        path.unlink()
    assert mesh.get("/").status == 200
    goes_on(mesh)
    assert pids(mesh) == before, "no process ended and was started again"
    eventually(lambda: not mesh.status()["errors"], what="errors are gone")


edition = iter(range(1, 1_000_000))


def goes_on(mesh: MeshRun, *, seconds: float = 2.0) -> None:
    """Fail unless a change of the configuration shows in an answer within `seconds`."""
    number = str(next(edition))
    mesh.write("route.yaml", ROUTE.replace("EDITION", number))
    eventually(lambda: mesh.get("/").headers.get("x-edition") == number, what="the change arrived", seconds=seconds)


def pids(mesh: MeshRun) -> list[int]:
    status = mesh.status()
    found = [status["controlPlane"]["pid"]]
    for workload in sorted(status["workloads"], key=lambda w: w["name"]):
        found += [workload["pid"], workload["envoyPid"], workload["appPid"]]
    return found


def memory_kb(pid: int) -> int:
    """Return what a process holds of its own (not what it maps of files)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} tells no RssAnon")


def offer(connect: Callable[[], socket.socket], data: bytes) -> None:
    """Send what can be sent; that the other side answers, closes or resets are all fine."""
    with contextlib.suppress(OSError), connect() as sock:
        sock.settimeout(0.3)
        for start in range(0, len(data), PACKET):
            sock.sendall(data[start : start + PACKET])
        while sock.recv(65536):
            continue


def unix(path: Path) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        # The network's holder speaks in packets, each of which may carry descriptors; all others in streams.
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if path.name == "net.sock" else socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"{path}: {error.strerror}") from None
        return sock

    return connect


def sockets_of(mesh: MeshRun) -> list[Path]:
    found = [mesh.state / "run" / name for name in SOCKETS]
    assert all(path.is_socket() for path in found)
    return found + [path for path in mesh.state.glob("w/*/*") if path.is_socket()]


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_on_sockets_and_gateway(mesh: MeshRun, kind: str) -> None:
    where: list[Callable[[], socket.socket]] = [unix(path) for path in sockets_of(mesh)]
    where.append(lambda: socket.create_connection(("127.0.0.1", mesh.port)))
    threads = [threading.Thread(target=offer, args=(connect, NONSENSE[kind])) for connect in where]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_nonsense_on_the_ports_within_a_workload(mesh: MeshRun) -> None:
    script = (
        "import socket,sys\n"
        "own,ports=sys.argv[1],[int(p) for p in sys.argv[2].split(',')]\n"
        "data=sys.stdin.buffer.read().split(b'<NEXT>')\n"
        "count=0\n"
        "for host in ('127.0.0.1',own):\n"
        "    for port in ports:\n"
        "        for one in data:\n"
        "            try:\n"
        "                with socket.create_connection((host,port),timeout=0.05) as s:\n"
        "                    count+=1\n"
        "                    s.settimeout(0.05)\n"
        "                    s.sendall(one)\n"
        "                    while s.recv(65536): pass\n"
        "            except OSError: pass\n"
        "print(count)\n"
    )
    info = mesh.workload_status("echo-v1")
    assert info is not None
    result = mesh.inside(
        "echo-v1",
        [sys.executable, "-c", script, info["ip"], ",".join(map(str, INSIDE_PORTS))],
        seconds=60,
        feed=b"<NEXT>".join(NONSENSE.values()),
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= len(INSIDE_PORTS) * len(NONSENSE)
    # And from the network, where everything is captured: what 15006 gets of a stranger.
    result = mesh.inside(
        "ingressgateway",
        [sys.executable, "-c", script, info["ip"], ",".join(map(str, INSIDE_PORTS))],
        seconds=60,
        feed=b"<NEXT>".join(NONSENSE.values()),
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= len(NONSENSE)


def test_half_open_connections(mesh: MeshRun) -> None:
    paths = sockets_of(mesh)
    with contextlib.ExitStack() as stack:
        for path in paths:
            for start in (b"", GRPC_PREFACE[:7], b"\x16\x03\x01"):
                for _ in range(15):
                    sock = stack.enter_context(unix(path)())
                    with contextlib.suppress(OSError):
                        sock.sendall(start)
                    if start == b"":
                        with contextlib.suppress(OSError):
                            sock.shutdown(socket.SHUT_WR)
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", mesh.port))).sendall(b"GET / HT")
        assert mesh.get("/").status == 200
        goes_on(mesh)
        # Who comes meanwhile is let in: a certificate, a network, a stream.
        mesh.workload("late", "v1", [sys.executable, str(ECHO)])
        mesh.wait_ready("late-v1")
        mesh.stop("late-v1")


def test_nonsense_without_end_costs_no_memory(mesh: MeshRun) -> None:
    pid = mesh.status()["controlPlane"]["pid"]
    paths = sockets_of(mesh)[: len(SOCKETS)]

    def pour(rounds: int) -> None:
        for _ in range(rounds):
            for path in paths:
                for data in NONSENSE.values():
                    with contextlib.suppress(OSError), unix(path)() as sock:
                        sock.settimeout(0.3)
                        sock.sendall(data[:PACKET])

    pour(5)
    before = memory_kb(pid)
    pour(40)  # some 50 MB: a control plane that kept what it was sent would show it
    eventually(lambda: memory_kb(pid) < before + STEADY_MEMORY_KB, what="memory is given back", seconds=10)


# ---------------------------------------------------------------- files


def error_of(mesh: MeshRun, name: str) -> str:
    """Wait for an error about a file and return its words."""

    def found() -> str | None:
        return next((e["message"] for e in mesh.status()["errors"] if e["file"].endswith(name)), None)

    message: str = eventually(found, what=f"an error about {name}", seconds=20)
    return message


def test_a_file_of_50_mb(mesh: MeshRun) -> None:
    pid = mesh.status()["controlPlane"]["pid"]
    before = memory_kb(pid)
    one = "- {a: b, c: [d, e, f]}\n"
    with mesh.load("/") as load:
        mesh.write("test-big.yaml", one * (50 * 1024 * 1024 // len(one)))
        began = time.monotonic()
        message = error_of(mesh, "test-big.yaml")
        assert time.monotonic() - began < 5, "it is refused by its size, not by reading it"
        goes_on(mesh)
    assert "bytes" in message or "MB" in message or "MiB" in message, message
    assert load.bad == []
    eventually(lambda: memory_kb(pid) < before + STEADY_MEMORY_KB, what="memory is given back", seconds=10)


def test_an_alias_bomb(mesh: MeshRun) -> None:
    pid = mesh.status()["controlPlane"]["pid"]
    before = memory_kb(pid)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    mesh.write("test-bomb.yaml", "\n".join(lines) + "\n")
    assert "alias" in error_of(mesh, "test-bomb.yaml")
    goes_on(mesh)
    assert memory_kb(pid) < before + STEADY_MEMORY_KB


def test_empty_and_half_written_files(mesh: MeshRun) -> None:
    whole = ROUTE.replace("EDITION", "whole").encode()
    target = mesh.config / "route.yaml"
    target.write_bytes(whole)
    eventually(lambda: mesh.get("/").headers.get("x-edition") == "whole", what="the whole file")
    # As a slow editor writes: in pieces, each of which is read. What stood before stays in force.
    changed = ROUTE.replace("EDITION", "changed").encode()
    with open(target, "wb") as file:
        for start in range(0, len(changed), 60):
            file.write(changed[start : start + 60])
            file.flush()
            time.sleep(0.1)
            answer = mesh.get("/")
            assert answer.status == 200
            assert answer.headers["x-edition"] in ("whole", "changed")
    eventually(lambda: mesh.get("/").headers.get("x-edition") == "changed", what="the rest of the file", seconds=2)
    target.write_bytes(b"")
    assert "is empty" in error_of(mesh, "route.yaml")
    assert mesh.get("/").headers["x-edition"] == "changed"
    (mesh.config / "test-binary.yaml").write_bytes(os.urandom(5000))
    error_of(mesh, "test-binary.yaml")
    assert mesh.get("/").headers["x-edition"] == "changed"
