"""Ask once or often and write what came as JSON.

    ask.py http URL COUNT         [[status, JSON of the body or its text], ...] on one connection
    ask.py tcp HOST PORT TEXT     what came back for one line
    ask.py names NAME ...         {name: sorted addresses, [] where it has none}
What fails is told by `"error: ..."` in its place.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

SECONDS = 8.0


def ask_http(text: str, count: int) -> list[Any]:
    url = urlsplit(text)
    connection = http.client.HTTPConnection(url.netloc, timeout=SECONDS)
    answers: list[Any] = []
    for _ in range(count):
        try:
            connection.request("GET", (url.path or "/") + (f"?{url.query}" if url.query else ""))
            response = connection.getresponse()
            body = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            answers.append([0, f"error: {error!r}"])
            connection.close()
            continue
        answers.append([response.status, json.loads(body) if body.startswith("{") else body])
    return answers


def ask_tcp(host: str, port: int, text: str) -> str:
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as sock:
            sock.sendall(text.encode() + b"\n")
            with sock.makefile() as file:
                return file.readline()
    except OSError as error:
        return f"error: {error!r}"


def look_up(names: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found[name] = []
        with contextlib.suppress(OSError):
            found[name] = sorted({str(info[4][0]) for info in socket.getaddrinfo(name, 80, socket.AF_INET)})
    return found


def main() -> None:
    kind, *words = sys.argv[1:]
    if kind == "http":
        print(json.dumps(ask_http(words[0], int(words[1]))))
    elif kind == "tcp":
        print(json.dumps(ask_tcp(words[0], int(words[1]), words[2])))
    else:
        print(json.dumps(look_up(words)))


if __name__ == "__main__":
    main()
