"""The helper of `probe`: asks an application how it is, from within its network, and writes one line for each answer.

A line is the complaint; an empty one means that all is well. Started as `python -I -S -c ... JSON`, never by hand, with
the JSON of a `lateen.wire.local.Probe`. Imports are few on purpose: it lives as long as the application.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["ask", "main"]

MAX_ANSWER_BYTES = 64 * 1024
GRPC_SERVING = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus
H2_DATA, H2_HEADERS, H2_RST, H2_SETTINGS, H2_PING, H2_GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, PADDED, ACK = 1, 4, 8, 1


def main(text: str) -> None:
    """Ask for ever, as `text` says."""
    probe = json.loads(text)
    time.sleep(probe.get("initialDelaySeconds", 0))
    while True:
        began = time.monotonic()
        complaint = ask(probe)
        sys.stdout.write(" ".join(complaint.split()) + "\n")
        sys.stdout.flush()
        time.sleep(max(0.0, began + probe["periodSeconds"] - time.monotonic()))


def ask(probe: dict[str, Any]) -> str:
    """Ask once and return the complaint, "" when the application is well. Takes no longer than the probe's timeout."""
    deadline = time.monotonic() + probe["timeoutSeconds"]
    try:
        return _KINDS[probe["kind"]](probe, deadline)
    except TimeoutError:
        return f"{_where(probe)}: no answer within {probe['timeoutSeconds']} s"
    except (OSError, EOFError, ValueError, IndexError) as error:
        return f"{_where(probe)}: {getattr(error, 'strerror', None) or error}"


def _where(probe: dict[str, Any]) -> str:
    if probe["kind"] == "exec":
        return f"exec {probe['command'][0]}"
    return f"{probe['kind']} {probe['host']}:{probe['port']}{probe['path'] if probe['kind'] == 'http' else ''}"


# ---------------------------------------------------------------- sockets


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _connect(probe: dict[str, Any], deadline: float) -> socket.socket:
    return socket.create_connection((probe["host"], probe["port"]), timeout=_left(deadline))


def _receive(sock: socket.socket, deadline: float) -> bytes:
    sock.settimeout(_left(deadline))
    return sock.recv(16384)


# ---------------------------------------------------------------- kinds


def _tcp(probe: dict[str, Any], deadline: float) -> str:
    _connect(probe, deadline).close()
    return ""


def _http(probe: dict[str, Any], deadline: float) -> str:
    sock = _connect(probe, deadline)
    try:
        if probe["scheme"] == "HTTPS":
            sock = _unchecked_tls(sock)
        given = {name.lower(): value for name, value in probe["headers"]}
        host = probe["host"] if ":" not in probe["host"] else f"[{probe['host']}]"
        head = {"host": f"{host}:{probe['port']}", "user-agent": "lateen-probe", "accept": "*/*", **given}
        head["connection"] = "close"
        lines = [f"GET {probe['path']} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        sock.settimeout(_left(deadline))
        sock.sendall("\r\n".join(lines).encode())
        answer = b""
        while b"\n" not in answer and len(answer) < MAX_ANSWER_BYTES:
            part = _receive(sock, deadline)
            if not part:
                raise EOFError("closed without an answer")
            answer += part
    finally:
        sock.close()
    words = answer.split(b"\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("no answer in HTTP")
    status = int(words[1])
    return "" if 200 <= status < 400 else f"{_where(probe)}: status {status}"


def _unchecked_tls(sock: socket.socket) -> socket.socket:
    import ssl  # only here: it is large, and few probes want it

    # As Kubernetes': the application's own certificate is nobody's business but its callers'.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def _exec(probe: dict[str, Any], deadline: float) -> str:
    import signal
    import subprocess

    quiet = subprocess.DEVNULL
    child = subprocess.Popen(probe["command"], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        code = child.wait(_left(deadline))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return "" if code == 0 else f"{_where(probe)}: exit code {code if code > 0 else 128 - code}"


def _grpc(probe: dict[str, Any], deadline: float) -> str:
    """Call grpc.health.v1.Health/Check in as much of HTTP/2 (RFC 9113) as that takes.

    Only the message of the answer is read. Trailers say nothing that its absence does not: a server that knows no such
    service, or no health service at all, sends none.
    """
    name = probe["service"].encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""  # HealthCheckRequest.service
    host = f"{probe['host']}:{probe['port']}"
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", host),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "lateen-probe"),
    )
    headers = b"".join(_literal(key, value) for key, value in fields)
    request = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(H2_SETTINGS, 0, 0, b"")
        + _frame(H2_HEADERS, END_HEADERS, 1, headers)
        + _frame(H2_DATA, END_STREAM, 1, b"\0" + len(message).to_bytes(4, "big") + message)
    )
    with _connect(probe, deadline) as sock:
        sock.settimeout(_left(deadline))
        sock.sendall(request)
        answer = b""
        for kind, flags, stream, payload in _frames(lambda: _receive(sock, deadline)):
            if kind == H2_SETTINGS and not flags & ACK:
                sock.sendall(_frame(H2_SETTINGS, ACK, 0, b""))
            elif kind == H2_PING and not flags & ACK:
                sock.sendall(_frame(H2_PING, ACK, 0, payload))
            elif kind == H2_DATA and stream == 1:
                answer += payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
            if kind == H2_GOAWAY or (stream == 1 and (kind == H2_RST or flags & END_STREAM)):
                break
    if answer[:1] != b"\0" or len(answer) < 5:
        return f"{_where(probe)}: the server knows nothing of the health of {probe['service'] or 'itself'}"
    status = _first_varint(answer[5:])
    names = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
    return "" if status == GRPC_SERVING else f"{_where(probe)}: {names.get(status, status)}"


_KINDS: dict[str, Callable[[dict[str, Any], float], str]] = {"http": _http, "tcp": _tcp, "exec": _exec, "grpc": _grpc}


# ---------------------------------------------------------------- HTTP/2 and protobuf


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _frames(receive: Callable[[], bytes]) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, stream, payload) until the peer closes. Raises `ValueError` for one that is no HTTP/2."""
    buffer = b""
    while True:
        while len(buffer) < 9 or len(buffer) < 9 + int.from_bytes(buffer[:3], "big"):
            if len(buffer) > MAX_ANSWER_BYTES or buffer.startswith(b"HTTP/"):
                raise ValueError("no answer in HTTP/2")
            part = receive()
            if not part:
                return
            buffer += part
        end = 9 + int.from_bytes(buffer[:3], "big")
        yield buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big") & 0x7FFFFFFF, buffer[9:end]
        buffer = buffer[end:]


def _literal(name: str, value: str) -> bytes:
    """Return a header as HPACK's literal without indexing, without Huffman coding (RFC 7541, 6.2.2)."""
    return b"\0" + b"".join(_prefixed(len(text), 7) + text for text in (name.encode(), value.encode()))


def _prefixed(number: int, bits: int) -> bytes:
    """Return an integer of RFC 7541, 5.1, whose first byte has `bits` bits for it."""
    most = (1 << bits) - 1
    return bytes((number,)) if number < most else bytes((most,)) + _varint(number - most)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _first_varint(message: bytes) -> int:
    """Return field 1 of a message that has no other, a varint of one byte; 0 when it is absent."""
    return message[1] if len(message) > 1 and message[0] == 0x08 else 0
