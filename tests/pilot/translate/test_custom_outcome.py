"""External authorizers asked by a real Envoy: about what, how, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from tests.fakes.authorizers import GrpcAuthorizer, HttpAuthorizer, Question
from tests.fakes.gate import Gate
from tests.fakes.proxies import ConfigServer, dead_port

pytestmark = pytest.mark.envoy

IN, OUT = 200, 403
MESH = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  extensionProviders:
  - name: http
    envoyExtAuthzHttp: {service: http.auth.test, port: 80%s}
  - name: grpc
    envoyExtAuthzGrpc: {service: default/grpc.auth.test, port: 80%s}
  - name: grpc-2
    envoyExtAuthzGrpc: {service: grpc2.auth.test, port: 80}
  - {name: lost, envoyExtAuthzGrpc: {service: lost.auth.test, port: 80, failOpen: true}}
  - {name: elsewhere, envoyExtAuthzGrpc: {service: other/grpc.auth.test, port: 80}}
  - {name: portless, envoyExtAuthzGrpc: {service: grpc.auth.test, port: 81}}
  - {name: wrong, envoyExtAuthzHttp: {service: http.auth.test, port: 80, pathPrefix: x}}
  - {name: tracer, zipkin: {service: http.auth.test, port: 80}}
---
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %(name)s, namespace: default}
spec:
  hosts: [%(name)s.auth.test]
  resolution: STATIC
  location: MESH_EXTERNAL
  ports: [{number: 80, name: %(protocol)s, protocol: %(protocol)s}]
  endpoints: [{address: 127.0.0.1, ports: {%(protocol)s: %(port)s}}]
---
"""


class Desk:
    """A gate, and the authorizers that may be asked."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.http = HttpAuthorizer()
        self.grpc = GrpcAuthorizer()
        self.second = GrpcAuthorizer()

    def use(self, provider: str, rules: str = "{to: [{operation: {paths: ['/admin*']}}]}", **more: str) -> None:
        """Ask `provider` about what `rules` match. `http`, `grpc`: more of those providers; `also`: more YAML."""
        for authorizer in (self.http, self.grpc, self.second):
            authorizer.asked.clear()
            authorizer.verdict = lambda _: (200, {})
        entries = [
            ENTRY % {"name": name, "protocol": protocol, "port": more.get("port", str(port))}
            for name, protocol, port in (
                ("http", "HTTP", self.http.port),
                ("grpc", "GRPC", self.grpc.port),
                ("grpc2", "GRPC", self.second.port),
            )
        ]
        mesh = MESH % (more.get("http", ""), more.get("grpc", ""))
        self.gate.use("".join(("---\n", mesh, *entries, custom(provider, rules), more.get("also", ""))))


def custom(provider: str, rules: str, *, name: str = "ask") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{rules}]}}
---
"""


def plain(spec: str, name: str = "plain") -> str:
    return (
        f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: default}}\nspec: {spec}\n---\n"
    )


@pytest.fixture(scope="module")
def desk(server: ConfigServer, folder: Path) -> Iterator[Desk]:
    with Gate(folder, server) as gate:
        found = Desk(gate)
        with found.http, found.grpc, found.second:
            yield found


@pytest.mark.parametrize("provider", ["http", "grpc"])
def test_only_what_matches_is_asked_about(desk: Desk, provider: str) -> None:
    desk.use(provider)
    authorizer = desk.http if provider == "http" else desk.grpc
    authorizer.verdict = lambda question: (200 if "ok" in question.path else 401, {})
    answers = {path: desk.gate.ask(path).status for path in ("/open", "/admin/ok", "/admin/no")}
    assert answers == {"/open": IN, "/admin/ok": IN, "/admin/no": 401}
    assert [question.path for question in authorizer.asked] == ["/admin/ok", "/admin/no"]


def test_a_negative_answer_is_final_and_a_positive_one_is_not(desk: Desk) -> None:
    desk.use("grpc", "{}", also=plain("{action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}"))
    assert [desk.gate.ask(method=method).status for method in ("GET", "POST")] == [IN, OUT]
    desk.use("grpc", "{}", also=plain("{rules: [{}]}"))
    desk.grpc.verdict = lambda _: (429, {"retry-after": "1"})
    reply = desk.gate.ask()
    assert (reply.status, reply.headers["retry-after"], reply.body) == (429, "1", b"no")


def test_the_path_that_is_asked_about_is_the_one_that_the_application_gets(desk: Desk) -> None:
    desk.use("grpc", "{}")
    desk.gate.ask("/a/..//%2Fb")
    assert [question.path for question in desk.grpc.asked] == ["/b"]
    assert desk.gate.seen[-1]["path"] == "/b"


def test_connections_of_bytes(desk: Desk) -> None:
    desk.use("grpc", '{to: [{operation: {ports: ["$tcp"]}}]}')
    assert (desk.gate.says(account="web"), len(desk.grpc.asked)) == (b"app:hello", 1)
    assert desk.grpc.asked[0].principal == "spiffe://cluster.local/ns/default/sa/web"
    desk.grpc.verdict = lambda _: (403, {})
    assert desk.gate.says() == b""
    assert (desk.gate.says(port=desk.gate.loose), desk.gate.ask().status) == (b"loose:hello", IN)
    desk.use("http", "{}")  # there is no request that it could be asked about
    assert (desk.gate.says(), desk.http.asked) == (b"app:hello", [])


@pytest.mark.parametrize("provider", ["unknown", "lost", "elsewhere", "portless", "wrong", "tracer"])
def test_who_cannot_be_asked_lets_nothing_in_that_matches(desk: Desk, provider: str) -> None:
    desk.use(provider)
    assert [desk.gate.ask(path).status for path in ("/open", "/admin")] == [IN, OUT]
    assert [p for p in desk.gate.problems if p.field == "spec.provider.name" and "denied" in p.message]


def test_several_authorizers_must_all_agree(desk: Desk) -> None:
    desk.use("grpc", "{}", also=custom("grpc-2", "{}", name="too") + custom("http", "{}", name="three"))
    assert desk.gate.ask().status == IN
    assert (len(desk.grpc.asked), len(desk.second.asked), len(desk.http.asked)) == (1, 1, 1)
    desk.second.verdict = lambda _: (403, {})
    assert desk.gate.ask().status == OUT
    desk.use("grpc-2", also=custom("grpc", "{to: [{operation: {paths: [/x]}}]}", name="other"))
    assert [desk.gate.ask(path).status for path in ("/x", "/admin", "/")] == [IN, IN, IN]
    assert [question.path for question in desk.grpc.asked] == ["/x"]  # a name that begins another is another
    assert [question.path for question in desk.second.asked] == ["/admin"]


# ---------------------------------------------------------------- fields of the providers


def ask_http(desk: Desk, fields: str, **request: object) -> Question:
    """Ask once with these fields of the HTTP provider, and return what it was asked."""
    desk.use("http", "{}", http=f", {fields}")
    desk.gate.ask(**{"headers": [("x-a", "1"), ("X-B-C", "2"), ("cookie", "k=v")], **request})  # type: ignore[arg-type]
    (question,) = desk.http.asked
    return question


def test_headers_that_are_shown(desk: Desk) -> None:
    assert "x-a" not in ask_http(desk, "timeout: 5s").headers
    for field in ("includeRequestHeadersInCheck", "includeHeadersInCheck"):
        question = ask_http(desk, f'{field}: [X-A, "x-b-*"]')
        assert (question.headers["x-a"], question.headers["x-b-c"]) == ("1", "2")
        assert "cookie" not in question.headers


def test_headers_that_are_added_to_the_question(desk: Desk) -> None:
    question = ask_http(desk, "includeAdditionalHeadersInCheck: {x-mesh: here, x-a: mine}")
    assert (question.headers["x-mesh"], question.headers["x-a"]) == ("here", "mine")


def test_the_path_is_put_behind_a_prefix(desk: Desk) -> None:
    assert ask_http(desk, "pathPrefix: /check", path="/a?b=c").path == "/check/a?b=c"


@pytest.mark.parametrize("provider", ["http", "grpc"])
def test_the_body_is_shown_up_to_a_limit(desk: Desk, provider: str) -> None:
    shown = ", includeRequestBodyInCheck: {maxRequestBytes: 4, allowPartialMessage: true, packAsBytes: %s}"
    for packed in ("false", "true") if provider == "grpc" else ("false",):
        desk.use(provider, "{}", **{provider: shown % packed})
        assert desk.gate.ask(method="POST", body=b"abcdef").status == IN
        authorizer = desk.http if provider == "http" else desk.grpc
        assert [question.body for question in authorizer.asked] == ["abcd"]
    desk.use(provider, "{}", **{provider: ", includeRequestBodyInCheck: {maxRequestBytes: 4}"})
    assert desk.gate.ask(method="POST", body=b"abcdef").status == 413


def test_headers_of_its_answer(desk: Desk) -> None:
    fields = (
        'headersToUpstreamOnAllow: [x-user], headersToDownstreamOnAllow: ["x-note-*"], '
        "headersToDownstreamOnDeny: [x-why]"
    )
    desk.use("http", "{}", http=f", {fields}")
    said = {"x-user": "me", "x-note-a": "1", "x-why": "so", "x-other": "no"}
    desk.http.verdict = lambda _: (200, said)
    reply = desk.gate.ask(headers=[("x-user", "forged")])
    assert desk.gate.seen[-1]["headers"]["x-user"] == "me"
    assert (reply.headers.get("x-note-a"), reply.headers.get("x-why"), reply.headers.get("x-other")) == (
        "1",
        None,
        None,
    )
    desk.http.verdict = lambda _: (403, said)
    reply = desk.gate.ask()
    assert (reply.status, reply.headers["x-why"], reply.headers.get("x-note-a")) == (OUT, "so", None)
    assert reply.json == {"authorizer": 403}


@pytest.mark.parametrize("provider", ["http", "grpc"])
def test_one_that_does_not_answer(desk: Desk, provider: str) -> None:
    with dead_port() as port:
        for fields, expected in (("", OUT), (', statusOnError: "503"', 503), (", failOpen: true", IN)):
            desk.use(provider, "{}", port=str(port), **{provider: fields})
            assert desk.gate.ask().status == expected, fields
        if provider == "grpc":
            desk.use(provider, "{}", port=str(port), grpc=", failOpen: true")
            assert desk.gate.says() == b"app:hello"
            desk.use(provider, "{}", port=str(port))
            assert desk.gate.says() == b""


@pytest.mark.parametrize("provider", ["http", "grpc"])
def test_one_that_takes_too_long(desk: Desk, provider: str) -> None:
    desk.use(provider, "{}", **{provider: ", timeout: 0.05s"})
    authorizer = desk.http if provider == "http" else desk.grpc
    released = Event()
    authorizer.verdict = lambda _: (200 if released.wait(5) else 500, {})
    assert desk.gate.ask().status == OUT
    released.set()
