"""What the evaluator compares is what a real Envoy passes on, and what it refuses a real Envoy refuses."""

from __future__ import annotations

from random import Random

import pytest
from tests.fakes.court import Case, Client, Court, ask_http
from tests.strategies.policies import PATHS, draw_path

from lateen.authz import Normalisation
from lateen.authz.normalise import normalise_path, split_target

pytestmark = pytest.mark.envoy

BYTES = [bytes([number]) for number in range(256)]
TARGETS = (
    b"/a/..;/b",
    b"/a/%2e%2e;/b",
    b"/a/.%2e;/b",
    b"/a/%2e.;/b",
    b"/a/.;%2e/b",
    b"/a/%2e;/b",
    b"/;/b",
    b"/a/..;x=y/b",
    b"/a/.;/b",
    b"/a/..;",
    b"/a/...;/b",
    b"/a/..,/b",
    b"/..",
    b"/.",
    b"/a/b/../../../c",
    b"/a//../b",
    b"//..//a",
    b"/a/.%2e/b",
    b"/%25%32%65",
    b"/%c0%ae%c0%ae/a",
    b"/%u002e",
    b"/\\..\\a",
    b"/a?/../b",
    b"/?%00",
    b"/a?\xfc",
    b"http://other/a/../b",
    b"HTTPS://user:word@other:80/x",
    b"http://other",
    b"http:///x",
    b"ftp://other/x",
    b"other/x",
)


def test_every_byte_and_every_trick_of_a_path_is_spelled_alike(court: Court) -> None:
    rng = Random(7)
    drawn = [draw_path(rng).encode("latin-1") for _ in range(300)]
    spelled = [b"/x%" + f"{number:02x}".encode() + b"y" for number in range(256)]
    targets = [*(b"/x" + byte + b"y" for byte in BYTES), *spelled, *TARGETS, *drawn]
    targets += [path.encode("latin-1") for path in PATHS]
    case = Case({})
    court.hold([case])
    differences = []
    for target in targets:
        split = split_target(target.decode("latin-1"), "app")
        path = normalise_path(split[1], Normalisation()) if split is not None else None
        with court.connect(case, Client()) as sock:
            outcome = ask_http(sock, b"GET " + target + b" HTTP/1.1\r\nhost: app\r\n\r\n")
        if path is None or split is None:
            alike = (outcome.status, outcome.arrived) == (400, False)
        else:
            alike = outcome.arrived and outcome.path.partition("?")[0] == path and outcome.host == split[0]
        if not alike:
            differences.append((target, path, outcome))
    assert differences == []
    assert len(targets) > 800
