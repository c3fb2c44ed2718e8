"""The client of the traffic cases: reads one question a line, writes one answer a line, both JSON.

{"kind": "http", "method", "url", "headers", "body", "times", "connect": [host, port]}
    -> {"answers": [{"status", "headers", "body", "seconds"}, ...]}; status 0: no answer, body says why
{"kind": "tcp", "host", "port", "text", "times"}        -> {"answers": ["line", ...]}
{"kind": "tls", "host", "port", "sni", "text", "times"} -> the same, inside the application's own TLS
{"kind": "name", "host"}                                -> {"answers": [[address, ...]]}
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import sys
import time
from typing import Any
from urllib.parse import urlsplit

SECONDS = 10.0


def ask_http(question: dict[str, Any]) -> list[Any]:
    url = urlsplit(question["url"])
    host, port = question.get("connect") or (url.hostname, url.port or 80)
    headers = {"host": url.netloc, **{name.lower(): value for name, value in question["headers"].items()}}
    body = question["body"].encode()
    if body:
        headers["content-length"] = str(len(body))
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    answers: list[Any] = []
    for _ in range(question["times"]):
        began = time.monotonic()
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.putrequest(question["method"], target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            told: dict[str, str] = {}
            for name, value in response.getheaders():
                told[name.lower()] = f"{told[name.lower()]}, {value}" if name.lower() in told else value
            answer = {"status": response.status, "headers": told, "body": text}
        except (OSError, http.client.HTTPException) as error:
            answer = {"status": 0, "headers": {}, "body": f"error: {error!r}"}
            connection.close()
        answers.append({**answer, "seconds": time.monotonic() - began})
    connection.close()
    return answers


def ask_lines(question: dict[str, Any]) -> list[Any]:
    answers: list[Any] = []
    for _ in range(question["times"]):
        try:
            with socket.create_connection((question["host"], question["port"]), timeout=SECONDS) as plain:
                sock: socket.socket = plain
                if question["kind"] == "tls":
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE  # it is the mesh's way that is tried, not the server's name
                    sock = context.wrap_socket(plain, server_hostname=question["sni"])
                sock.sendall(question["text"].encode() + b"\n")
                with sock.makefile() as file:
                    answers.append(file.readline().rstrip("\n"))
        except OSError as error:
            answers.append(f"error: {error!r}")
    return answers


def look_up(question: dict[str, Any]) -> list[Any]:
    with contextlib.suppress(OSError):
        return [sorted({str(info[4][0]) for info in socket.getaddrinfo(question["host"], 80, socket.AF_INET)})]
    return [[]]


ASK = {"http": ask_http, "tcp": ask_lines, "tls": ask_lines, "name": look_up}


def main() -> None:
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps({"answers": ASK[question["kind"]](question)}), flush=True)


if __name__ == "__main__":
    main()
