"""Talk to a server of bytes and write what came of it as JSON: how often for `times`, each on a connection of its own.

talk.py line HOST PORT TIMES      what came back for a line
talk.py banner HOST PORT SECONDS  what is said unasked and after how long; then what came back for a line
talk.py whole HOST PORT SIZE      sends lines, SIZE bytes in all, says that no more come, and reads on
talk.py hold HOST PORT COUNT      COUNT connections at once: how many answer
talk.py idle HOST PORT SECONDS    the lines before and after so long a silence
talk.py tls HOST PORT SNI         what came back through TLS, and whose certificate it was
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from typing import Any

SECONDS = 10


def _line(sock: socket.socket, text: str = "ahoy") -> str:
    sock.sendall(text.encode() + b"\n")
    return sock.makefile().readline().strip()


def line(host: str, port: int, times: str) -> list[str]:
    answers = []
    for _ in range(int(times)):
        try:
            with socket.create_connection((host, port), timeout=SECONDS) as sock:
                answers.append(_line(sock))
        except OSError as error:
            answers.append(f"error: {type(error).__name__}")
    return answers


def banner(host: str, port: int, seconds: str) -> dict[str, Any]:
    started = time.monotonic()
    with socket.create_connection((host, port), timeout=float(seconds)) as sock:
        try:
            said = sock.makefile().readline().strip()
        except TimeoutError:
            return {"said": "", "seconds": time.monotonic() - started}
        waited = time.monotonic() - started
        sock.settimeout(SECONDS)
        return {"said": said, "seconds": waited, "answer": _line(sock)}


def whole(host: str, port: int, size: str) -> str:
    with socket.create_connection((host, port), timeout=SECONDS) as sock:
        sock.sendall((b"x" * 63 + b"\n") * (int(size) // 64))
        sock.shutdown(socket.SHUT_WR)
        return sock.makefile().read().strip()


def hold(host: str, port: int, count: str) -> int:
    alive = 0
    socks = [socket.create_connection((host, port), timeout=SECONDS) for _ in range(int(count))]
    for sock in socks:
        try:
            alive += bool(_line(sock))
        except OSError:
            continue
    return alive


def idle(host: str, port: int, seconds: str) -> list[str]:
    with socket.create_connection((host, port), timeout=SECONDS) as sock:
        first = _line(sock)
        time.sleep(float(seconds))
        return [first, _line(sock)]


def tls(host: str, port: int, sni: str) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=sni) as sock,
    ):
        certificate = sock.getpeercert(binary_form=True) or b""
        return {"answer": _line(sock), "certificate": certificate.hex(), "version": sock.version()}


def main() -> None:
    action, host, port, argument = sys.argv[1:]
    actions = {"line": line, "banner": banner, "whole": whole, "hold": hold, "idle": idle, "tls": tls}
    try:
        answer: Any = actions[action](host, int(port), argument)
    except Exception as error:  # what went wrong is the answer
        answer = f"error: {type(error).__name__}: {error}"
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
