"""Probes: what answers mean, and what each kind asks of a real server."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of
from tests.fakes.proxies import dead_port

from lateen.agent.probe import Health, after, at_the_workload
from lateen.agent.prober import ask
from lateen.wire.local import Probe, WorkloadPort


def probe(kind: str, **fields: Any) -> dict[str, Any]:
    made = Probe(kind=kind, **{"host": "127.0.0.1", "timeout_seconds": 5, **fields})
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return found


@pytest.mark.parametrize(
    ("answers", "states"),
    [
        pytest.param("+", "+", id="the first success is enough by default"),
        pytest.param("-+", "-+", id="begins ill"),
        pytest.param("+--+", "++++", id="below the threshold"),
        pytest.param("+---", "+++-", id="three failures"),
        pytest.param("+--+--+---", "+++++++++-", id="failures in a row"),
        pytest.param("+---+", "+++-+", id="comes back"),
    ],
)
def test_what_answers_mean(answers: str, states: str) -> None:
    health, seen = Health(), ""
    for answer in answers:
        health = after(health, "" if answer == "+" else "ill", Probe(kind="tcp", failure_threshold=3))
        seen += "-" if health.ill else "+"
    assert seen == states


def test_successes_may_have_to_come_in_a_row() -> None:
    asked = Probe(kind="tcp", success_threshold=2)
    health = after(after(after(Health(), "", asked), "cold", asked), "", asked)
    assert health.ill == "cold"
    assert after(health, "", asked).ill == ""


def test_where_the_application_is_asked() -> None:
    ports = (WorkloadPort(name="http", number=80, target=31000),)
    http = Probe(kind="http", port=80)
    assert at_the_workload(http, ip="10.77.0.9", ports=ports).host == "10.77.0.9"
    assert (
        at_the_workload(Probe(kind="tcp", host="localhost", port=80), ip="10.77.0.9", ports=ports).host == "localhost"
    )
    explicit = at_the_workload(http, ip="", ports=ports)
    assert (explicit.host, explicit.port) == ("127.0.0.1", 31000)


# ---------------------------------------------------------------- HTTP


class Handler(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:  # http.server's name
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(int(self.path.rpartition("/")[2]))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[tuple[str, dict[str, str]]]]]:
    seen: list[tuple[str, dict[str, str]]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"seen": seen}))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, True), (302, True), (404, False), (503, False)])
def test_http_statuses(status: int, well: bool) -> None:
    with http_server() as (port, _):
        complaint = ask(probe("http", port=port, path=f"/{status}"))
    assert complaint == ("" if well else f"http 127.0.0.1:{port}/{status}: status {status}")


def test_http_headers() -> None:
    with http_server() as (port, seen):
        assert ask(probe("http", port=port, path="/a/200", headers=(("X-Probe", "vm"), ("Host", "inner.test")))) == ""
        assert ask(probe("http", port=port, path="/200")) == ""
    assert seen[0][0] == "/a/200"
    assert (seen[0][1]["x-probe"], seen[0][1]["host"]) == ("vm", "inner.test")
    assert seen[1][1]["host"] == f"127.0.0.1:{port}"


def test_https_takes_any_certificate(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = StrangeAuthority().certify(key, names=[x509.DNSName("someone.test")])
    (tmp_path / "c.pem").write_bytes(pem_of(certificate))
    (tmp_path / "c.key").write_bytes(key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "c.key")
    with http_server(context) as (port, _):
        assert ask(probe("http", port=port, path="/200", scheme="HTTPS")) == ""
        assert "status 500" in ask(probe("http", port=port, path="/500", scheme="HTTPS"))
        assert ask(probe("http", port=port, path="/200")) != ""


# ---------------------------------------------------------------- the others


def test_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ask(probe("tcp", port=port)) == ""
    with dead_port() as port:
        assert ask(probe("tcp", port=port)) == f"tcp 127.0.0.1:{port}: Connection refused"


def test_exec() -> None:
    assert ask(probe("exec", command=("true",))) == ""
    assert ask(probe("exec", command=("sh", "-c", "exit 7"))) == "exec sh: exit code 7"
    assert ask(probe("exec", command=("/nowhere/at-all",))) == "exec /nowhere/at-all: No such file or directory"


@pytest.mark.parametrize("kind", ["http", "grpc", "exec"])
def test_no_answer_in_time(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and says nothing
        began = time.monotonic()
        asked = probe(kind, port=server.getsockname()[1], timeout_seconds=1, command=("sleep", "60"))
        assert "no answer within 1 s" in ask(asked)
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("kind", ["http", "grpc"])
@pytest.mark.parametrize(
    "answer", [b"\x00" * 200, b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad\r\n\r\n", b"", b"\xff" * 200_000]
)
def test_answers_of_another_kind(kind: str, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(5)
                try:
                    sock.sendall(answer)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(4096):
                        pass
                except OSError:
                    pass  # the probe had enough

        thread = threading.Thread(target=serve)
        thread.start()
        assert ask(probe(kind, port=server.getsockname()[1])) != ""
        thread.join()


# ---------------------------------------------------------------- gRPC


@contextmanager
def grpc_server(statuses: dict[str, int] | None) -> Iterator[int]:
    """A gRPC server; with `statuses`, it answers health checks by the name of the service."""

    def check(request: bytes, context: Any) -> bytes:
        name = request[2 if len(request) < 130 else 3 :].decode() if request else ""  # behind key and length
        if statuses is None or name not in statuses:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        return bytes((0x08, statuses[name])) if statuses is not None and statuses[name] else b""

    server = grpc.server(ThreadPoolExecutor(2))
    if statuses is not None:
        handler = grpc.unary_unary_rpc_method_handler(check)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def test_grpc() -> None:
    long = "a" * 200
    with grpc_server({"": 1, "quotes": 1, "closed": 2, "unsaid": 0, long: 1}) as port:
        for service in ("", "quotes", long):
            assert ask(probe("grpc", port=port, service=service)) == ""
        assert ask(probe("grpc", port=port, service="closed")) == f"grpc 127.0.0.1:{port}: NOT_SERVING"
        assert ask(probe("grpc", port=port, service="unsaid")) == f"grpc 127.0.0.1:{port}: UNKNOWN"
        assert "knows nothing of the health of other" in ask(probe("grpc", port=port, service="other"))
    with grpc_server(None) as port:
        assert "knows nothing of the health of itself" in ask(probe("grpc", port=port))
    assert "Connection refused" in ask(probe("grpc", port=port))
