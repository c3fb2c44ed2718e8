"""No spelling of a path or a host gets what a policy protects out of a real web server. Assurance 24."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.authz.bypass_corpus import H1, H2, Attack
from tests.fakes.court import Case, Client, Court
from tests.fakes.raw_http import RawH2, send_h1
from tests.fakes.web_servers import BY_HOST, BY_PATH, WebServer, apache, nginx

pytestmark = pytest.mark.envoy

WORKERS = 32  # most of them wait: a proxy that refuses an HTTP/2 connection closes it a second later
NGINX, APACHE = 8101, 8102
CORPUS = (*H1, *H2)


class Place(NamedTuple):
    """Both servers, each behind its workload's port."""

    court: Court
    servers: dict[int, WebServer]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        servers = {NGINX: stack.enter_context(nginx()), APACHE: stack.enter_context(apache())}
        court = Court(tmp_path_factory.mktemp("b"), http={port: server.port for port, server in servers.items()})
        yield Place(stack.enter_context(court), servers)


def got(place: Place, case: Case, port: int, attack: Attack) -> bytes:
    """Return all that came back for one attack, head and body."""
    try:
        with place.court.connect(case, Client(to=("10.77.0.10", port))) as sock:
            if attack.raw:
                return send_h1(sock, attack.raw, answers=1)
            answer = RawH2(sock).ask(attack.fields)
            head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.fields)
            return head + b"\r\n" + answer.body
    except ConnectionError:
        return b""


def leaks(answer: bytes) -> set[str]:
    """Return what of the protected came out: "path", "host"."""
    return {
        name
        for name, body in (("path", BY_PATH), ("host", BY_HOST))
        if body in answer or b"x-secret: " + name.encode() in answer
    }


def run(place: Place, case: Case, port: int, attacks: Sequence[Attack]) -> list[tuple[Attack, bytes]]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(zip(attacks, pool.map(lambda attack: got(place, case, port, attack), attacks), strict=True))
