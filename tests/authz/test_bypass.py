"""No spelling of a path or a host gets what a policy protects out of a real web server. Assurance 24."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from tests.authz.bypass_corpus import H1, H2, Attack
from tests.fakes.comparing import Guarded, in_force
from tests.fakes.court import SECONDS, Case, Client, Court
from tests.fakes.raw_http import RawH2, send_h1
from tests.fakes.web_servers import BY_HOST, BY_PATH, PUBLIC, WebServer, apache, nginx

pytestmark = pytest.mark.envoy

WORKERS = 150  # most of them wait: a proxy that refuses an HTTP/2 connection closes it a second later
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
                return send_h1(sock, attack.raw, answers=1, seconds=SECONDS)
            answer = RawH2(sock, seconds=SECONDS).ask(attack.fields)
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


def ask_all(place: Place, cases: Mapping[str, Case], attacks: Sequence[Attack]) -> list[tuple[str, int, Attack, bytes]]:
    """Return what came back for each attack at each case and each server."""
    jobs = [(name, port, attack) for name in cases for port in place.servers for attack in attacks]
    with ThreadPoolExecutor(WORKERS) as pool:
        answers = pool.map(lambda job: got(place, cases[job[0]], job[1], job[2]), jobs)
        return [(*job, answer) for job, answer in zip(jobs, answers, strict=True)]


def guarded(spec: dict[str, Any]) -> Case:
    """Return a workload with one policy."""
    document = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    return Case(in_force(Guarded([{**document, "metadata": {"name": "p"}, "spec": spec}], []).objects))


def operations(*fields: dict[str, Any], action: str = "ALLOW") -> dict[str, Any]:
    return {"action": action, "rules": [{"to": [{"operation": entry} for entry in fields]}]}


# What is protected by each policy, and the policy: what a user would write, nothing clever.
POLICIES: dict[str, tuple[set[str], dict[str, Any]]] = {
    "deny": ({"path", "host"}, operations({"paths": ["/admin*"]}, {"hosts": ["admin.test"]}, action="DENY")),
    "allow paths": ({"path", "host"}, operations({"paths": ["/public/*"]})),
    "allow a host": ({"host"}, operations({"hosts": ["public.test"]})),
    "allow all but": ({"path", "host"}, operations({"notPaths": ["/admin*"], "notHosts": ["admin.test"]})),
}


def test_nothing_protected_gets_out_by_another_spelling(place: Place) -> None:
    cases = {name: guarded(spec) for name, (_, spec) in POLICIES.items()}
    place.court.hold(cases.values())
    answers = ask_all(place, cases, CORPUS)
    out = [
        f"{name}, {place.servers[port].name}: {sorted(found)} by {attack.shown}"
        for name, port, attack, answer in answers
        if (found := leaks(answer) & POLICIES[name][0])
    ]
    assert out == []
    assert len(answers) > 4000


def test_the_corpus_is_alive(place: Place) -> None:
    """Without a policy much of it reaches what a policy would protect, or it would prove nothing."""
    cases = {"none": Case({})}
    place.court.hold(cases.values())
    reached: Counter[tuple[str, str, str]] = Counter()
    for _, port, attack, answer in ask_all(place, cases, CORPUS):
        if attack.by in leaks(answer):
            reached[place.servers[port].name, "HTTP/1" if attack.raw else "HTTP/2", attack.by] += 1
    print(f"{len(CORPUS)} attacks; without a policy there is reached: {dict(reached)}")
    least = {("HTTP/1", "path"): 60, ("HTTP/2", "path"): 50, ("HTTP/1", "host"): 20, ("HTTP/2", "host"): 8}
    for server in place.servers.values():
        for kind, count in least.items():
            assert reached[(server.name, *kind)] >= count, reached


@pytest.mark.parametrize("target", ["/public/%2e%2e;/admin", "/public/.%2e;x/admin", "/;/admin"])
def test_what_servers_of_java_resolve_is_refused(place: Place, target: str) -> None:
    cases = {"allow paths": guarded(POLICIES["allow paths"][1]), "deny": guarded(POLICIES["deny"][1]), "none": Case({})}
    place.court.hold(cases.values())
    raw = f"GET {target} HTTP/1.1\r\nhost: public.test\r\nconnection: close\r\n\r\n".encode()
    for name, _, _, answer in ask_all(place, cases, [Attack("", raw)]):
        assert answer.startswith(b"HTTP/1.1 404" if name == "none" else b"HTTP/1.1 403"), (name, answer)


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_public_is_served_under_every_policy(place: Place, name: str) -> None:
    case = guarded(POLICIES[name][1])
    place.court.hold([case])
    attacks = [Attack("", b"GET /public/page.txt HTTP/1.1\r\nhost: public.test\r\nconnection: close\r\n\r\n")]
    for _, port, _, answer in ask_all(place, {name: case}, attacks):
        assert PUBLIC in answer, (place.servers[port].name, answer)
