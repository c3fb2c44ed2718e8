"""The same rule, compiled into Envoy and asked of Mixer, decides the same: random rules, random requests, both real.

One Envoy holds two listeners for the same rules. Behind one everything that can be is compiled; behind the other all
of it is asked of a `lateen mixer serve`. Rules are told apart by a header, so that many are tried at once.
"""

from __future__ import annotations

import http.client
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from tests.e2e.harness import eventually
from tests.fakes.comparing import in_force
from tests.fakes.court import TCP_PORT, Case, Client, Court
from tests.fakes.tokens import sign

from lateen.agent.standard_metrics import complete
from lateen.api.decode import decode_documents
from lateen.expr import compile_expression
from lateen.expr.envoy_needs import needs_of
from lateen.flow import Graph
from lateen.pilot.model import mixer as model
from lateen.pilot.model.mesh import Mesh
from lateen.pilot.model.mixer import MixerRules
from lateen.pilot.model.mixer_explaining import explain
from lateen.pilot.model.mixer_placing import Placed
from lateen.pilot.model.values_called import MixerCalls
from lateen.pilot.model.values_jwt import RequestAuth
from lateen.pilot.translate.mixer.called import MIXER_DOWN, build_mixer_cluster

pytestmark = [pytest.mark.envoy]

SEED = 20261126
RULES, REQUESTS = 160, 12  # rules, and requests of each
ISSUER = "https://issuer.test"
WEB = "spiffe://cluster.local/ns/shop/sa/web"
IDENTITIES = {"web": WEB, "cron": "spiffe://cluster.local/ns/batch/sa/cron", "old": "spiffe://old.example/ns/a/sa/b"}

TEXTS = [
    'request.headers["x-a"]', "request.headers.xb", "request.path", "request.url_path",
    "request.host", "request.method", "request.useragent", "source.principal", "source.namespace",
    "source.serviceAccount", "destination.ip", "context.protocol", "context.reporter.kind",
    "connection.requested_server_name", "origin.ip", "api.protocol", "request.scheme",
]  # fmt: skip
CLAIMS = ["name", "level", "admin", "nothing", "nest.inner", "groups", "iss"]
LISTS = ["groups", "nest.list", "name", "nope"]
CONSTANTS = [
    "a",
    "b",
    "ab",
    "one",
    "/a/b",
    "/",
    "GET",
    "POST",
    "shop",
    "web",
    "http",
    "grpc",
    "inbound",
    "interns",
    "é",
    "",
]


class Grammar:
    """Makes conditions."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def condition(self, depth: int = 3) -> str:
        pick, chance = self._chance.choice, self._chance
        if depth and chance.random() < 0.6:
            left, right = self.condition(depth - 1), self.condition(depth - 1)
            made = pick([f"({left} && {right})", f"({left} || {right})", f"!({left})", f"({left} ? {right} : {left})"])
            return str(made)
        text, constant = pick(TEXTS), repr(pick(CONSTANTS)).replace("'", '"')
        claim = f"request.auth.claims.{pick(CLAIMS)}"
        return str(
            pick(
                [
                    f"{text} == {constant}",
                    f"{text} != {constant}",
                    f"{text}.{pick(['startsWith', 'endsWith', 'contains'])}({constant})",
                    f'{text}.matches("{pick(["^/a", "b$", "^[a-z]+$", "o.e", "A|B"])}")',
                    f'{text} in ["a", {constant}, "one"]',
                    f"size({text}) > {chance.randrange(6)}",
                    f"{text} < {constant}",
                    f"{text}.lowerAscii() + {constant} != {constant}",
                    f"{pick(['x-a', 'xb', 'user-agent'])!r} in request.headers".replace("'", '"'),
                    f"has(request.headers.{pick(['xb', 'nope'])})",
                    f"has({pick(['source.principal', 'source.namespace'])})",
                    f"has({claim})",
                    f"{claim} == {constant}",
                    f"{claim} != {pick(['3', '3.0', 'true', constant, 'null'])}",
                    f"{claim} in [{constant}, 3]",
                    f"{claim} >= {pick(['2', '3.5'])}",
                    f"{constant} in request.auth.claims.{pick(LISTS)}",
                    "connection.mtls",
                    "source.workload.name == 'web'",
                    "destination.port == 8001",
                    'request.time > timestamp("2020-01-01T00:00:00Z")',
                    f'request.auth.claims["{pick(["name", "a-b"])}"] == {constant}',
                ]
            )
        )

    def spec(self, number: int) -> str:
        chance = self._chance
        mine = f'request.headers["x-rule"] == "{number}"'
        if chance.random() < 0.2:
            kind, value = chance.choice(["ABSENT", "PRESENT"]), chance.choice(TEXTS)
            values = ", ".join(f'"{one}"' for one in chance.sample(CONSTANTS, 3))
            listed = f"list: {{value: '{value}', values: [{values}], deny: {kind}, body: 'list {number}'}}"
            return f"{{match: '{mine}', check: {{{listed}}}}}"
        condition = self.condition().replace("'", '"')
        deny = f"deny: {{status: {chance.choice([403, 404, 429, 503])}, body: '{chance.choice(['', f'no {number} %'])}'"
        return f"{{match: '{mine} && ({condition})', check: {{{deny}, headers: {{x-why: 'r{number} 100%'}}}}}}}}"


def _yaml(rules: dict[str, str]) -> str:
    head = "apiVersion: mixer.lateen.io/v1alpha1\nkind: Rule\nmetadata: {name: %s, namespace: shop}\nspec: %s\n"
    return "---\n".join(head % one for one in rules.items())


def _calls(rules: dict[str, str], *, called: bool) -> MixerCalls:
    with pytest.MonkeyPatch.context() as patch:
        if called:
            patch.setattr(model, "place", lambda *_: Placed(why="for comparison"))
            patch.setattr(model, "may_matter", lambda *_: None)
        decoded = decode_documents(_yaml(rules).encode(), "rules.yaml")
        assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
        graph = Graph()
        mesh = Mesh(graph)
        found = MixerRules(mesh, SOCKET)
        with graph.batch():
            for obj in decoded.objects:
                mesh.objects.set(obj.key, obj)
        calls: MixerCalls = found._calls.peek(("sidecar", "shop", ()))
        return calls


Answer = tuple[int, dict[str, str], bytes]
PASSING = ("date", "x-envoy-upstream-service-time")
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-open, namespace: default}
spec: {rules: [{to: [{operation: {paths: [/open]}}]}]}
"""
SOCKET = "MIXER"  # replaced when a stand is there


def plain_cluster(calls: MixerCalls) -> Cluster:
    """Return the cluster of a Mixer that has no identity."""
    cluster = build_mixer_cluster(calls)
    cluster.ClearField("transport_socket")
    return cluster


@dataclass
class Stand:
    """A court and a Mixer that any Envoy may ask."""

    court: Court
    folder: Path
    socket: str

    def hold(self, rules: dict[str, str]) -> tuple[Case, Case, MixerCalls]:
        """Return two cases of the same rules: compiled, and called; and what is left to call of the compiled ones."""
        (self.folder / "rules" / "rules.yaml").write_text(_yaml(rules))
        inside, outside = (replace(_calls(rules, called=called), socket=self.socket) for called in (False, True))
        tokens = RequestAuth(enabled=True)
        cases = [Case({"mixer": calls, "request_auth": tokens}) for calls in (inside, outside)]
        self.court.hold(cases, extra=[plain_cluster(outside)])
        self._mixer_has(len(rules))
        return cases[0], cases[1], inside

    def _mixer_has(self, rules: int) -> None:
        told = re.compile(rf"rules in force.*rules\W+{rules}\b")
        eventually(lambda: told.search((self.folder / "log").read_text()), what=f"Mixer has {rules} rules")

    def ask(self, case: Case, request: bytes, client: Client) -> Answer:
        """Return status, headers that a client could tell apart, and body."""
        with closing(self.court.connect(case, client)) as sock:
            sock.sendall(request)
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            headers = {name: value for name, value in answer.getheaders() if name not in PASSING}
            return answer.status, headers, answer.read()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("m")
    (folder / "rules").mkdir()
    path = folder / "mixer.sock"
    command = [
        sys.executable,
        "-m",
        "lateen",
        "mixer",
        "serve",
        "--rules",
        str(folder / "rules"),
        "--listen",
        f"unix:{path}",
    ]
    with (
        (folder / "log").open("wb") as log,
        Court(folder, identities=IDENTITIES, trust_domains=("cluster.local", "old.example")) as court,
    ):
        mixer = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(path.exists, what="Mixer listens")
            yield Stand(court, folder, str(path))
        finally:
            mixer.terminate()
            mixer.wait(10)


def _requests(chance: random.Random, number: int) -> Iterator[tuple[bytes, Client]]:
    tokens = [
        {
            "iss": ISSUER,
            "sub": "x",
            "name": "a",
            "level": 3,
            "admin": True,
            "groups": ["interns", "b"],
            "nothing": None,
        },
        {
            "iss": ISSUER,
            "sub": "x",
            "name": "one",
            "level": "3",
            "groups": "interns",
            "nest": {"inner": "a", "list": ["é"]},
        },
        {"iss": ISSUER, "sub": "x", "a-b": "b", "groups": []},
    ]
    for _ in range(REQUESTS):
        identity = chance.choice([None, "web", "cron", "old"])
        lines = [
            f"{chance.choice(['GET', 'POST'])} {chance.choice(['/', '/a/b', '/a/b?c=d', '/b'])} HTTP/1.1",
            "host: a",
        ]
        lines.append(f"x-rule: {number}")
        for name in ("x-a", "xb", "user-agent", "x-a", "content-type"):
            if chance.random() < 0.5:
                value = "application/grpc" if name == "content-type" else chance.choice(["a", "b", "one", "ab", "é"])
                lines.append(f"{name}: {value}")
        if chance.random() < 0.6:
            lines.append(f"authorization: Bearer {sign(chance.choice(tokens))}")
        lines.append("content-length: 0")
        sni = chance.choice(["", "outbound_.80_._.a"])
        yield "\r\n".join([*lines, "", ""]).encode(), Client(identity=identity, sni=sni if identity else "")


def test_a_rule_decides_the_same_in_envoy_and_in_mixer(stand: Stand) -> None:
    chance = random.Random(SEED)
    grammar = Grammar(chance)
    rules = {f"r{number}": grammar.spec(number) for number in range(RULES)}
    compiled, called, inside = stand.hold(rules)
    assert len(inside.inside.denies) > RULES * 0.8, "most conditions of these can be compiled"
    outcomes: Counter[int] = Counter()
    different = []
    for number in range(RULES):
        for request, client in _requests(chance, number):
            found, wanted = (stand.ask(case, request, client) for case in (compiled, called))
            outcomes[wanted[0]] += 1
            if found != wanted:
                different.append((rules[f"r{number}"], request, client, found, wanted))
    assert not different, "\n".join(map(str, different[:5])) + f"\n{len(different)} differ"
    assert outcomes[200] > 200
    assert sum(count for status, count in outcomes.items() if status != 200) > 200, outcomes


def test_what_one_of_several_must_match_is_decided_the_same(stand: Stand) -> None:
    rules = {
        "web": "{match: source.serviceAccount == 'web', check: {allow: {}}}",
        "a": '{match: \'request.headers["x-a"] == "a"\', check: {allow: {}}}',
        "never": "{match: request.url_path == '/never', check: {deny: {status: 404}}}",
    }
    compiled, called, inside = stand.hold(rules)
    assert [refusal.rule for refusal in inside.inside.allows] == ["shop/a", "shop/web"]
    assert not inside.needed, "nothing is left to ask"
    outcomes = []
    for identity in (None, "web", "cron"):
        for lines in ("", "x-a: a\r\n", "x-a: b\r\n"):
            for path in ("/", "/never"):
                request = f"GET {path} HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode()
                found, wanted = (stand.ask(case, request, Client(identity=identity)) for case in (compiled, called))
                assert found == wanted, (identity, lines, path)
                outcomes.append(found[0])
    assert Counter(outcomes) == {200: 5, 403: 4, 404: 9}
    assert stand.ask(compiled, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Client())[2] == b"no rule allows this\n"


def test_an_authorization_policy_that_refuses_keeps_its_words(stand: Stand) -> None:
    """Its refusal has the same details as that of a rule that allows."""
    compiled, _, _ = stand.hold({"all": "{check: {allow: {}}}"})
    decoded = decode_documents(POLICY.encode(), "policy.yaml")
    case = Case({**compiled.fields, "authorization": in_force(decoded.objects)["authorization"]})
    stand.court.hold([case])
    assert stand.ask(case, b"GET /open HTTP/1.1\r\nhost: a\r\n\r\n", Client())[0] == 200
    status, _, body = stand.ask(case, b"GET /shut HTTP/1.1\r\nhost: a\r\n\r\n", Client())
    assert (status, body) == (403, b"RBAC: access denied")


def test_connections_are_decided_the_same(stand: Stand) -> None:
    rules = {
        "no-cron": "{match: source.namespace == 'batch', check: {deny: {}}}",
        "ip": "{match: source.ip == '10.77.0.9' && source.port == 40000, check: {allow: {}}}",
        "requests": "{match: request.method == 'GET', check: {deny: {}}}",
    }
    compiled, called, inside = stand.hold(rules)
    assert [refusal.rule for refusal in inside.inside.tcp_denies] == ["shop/no-cron"]
    assert [refusal.rule for refusal in inside.inside.tcp_allows] == ["shop/ip"]
    outcomes = {}
    for identity in (None, "web", "cron"):
        for claimed in ("10.77.0.9", "10.77.0.8"):
            client = Client(identity=identity, claimed=claimed, to=("10.77.0.10", TCP_PORT))
            found, wanted = (stand.court.ask_tcp(case, client) for case in (compiled, called))
            assert found == wanted, client
            outcomes[identity, claimed] = found
    assert [who for who, passed in outcomes.items() if passed] == [(None, "10.77.0.9"), ("web", "10.77.0.9")]


def test_mixer_is_asked_only_where_a_rule_may_have_anything_to_say(stand: Stand) -> None:
    """And only then is its absence felt: here nobody listens where Envoy asks."""
    rules = {
        "closed": "{match: request.url_path == '/closed', check: {headers: {request: {set: {x-b: request.method}}}}}",
        "open": "{match: request.url_path == '/open', check: {headers: {request: {set: {x-b: request.method}}}},"
        " failurePolicy: open}",
    }
    compiled, _, inside = stand.hold(rules)
    calls = replace(inside, socket="/nowhere/mixer.sock")
    away = Case({**compiled.fields, "mixer": calls})
    everything = Case({**compiled.fields, "mixer": replace(calls, closed_when=None, open_when=None)})
    stand.court.hold([away, everything], extra=[plain_cluster(calls)])

    def get(case: Case, path: str) -> tuple[int, bytes]:
        status, _, body = stand.ask(case, f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode(), Client())
        return status, body

    assert get(away, "/closed") == (503, MIXER_DOWN.encode())
    assert get(away, "/open") == (200, b"")
    assert get(away, "/neither") == (200, b"")
    assert get(everything, "/neither") == (503, MIXER_DOWN.encode())
    # No question is counted for what no rule may match.
    asked = "/stats?filter=ext_authz.lateen_mixer.error"
    before = stand.court.envoy.admin(asked)
    get(away, "/neither")
    assert stand.court.envoy.admin(asked) == before
    get(away, "/open")
    assert stand.court.envoy.admin(asked) != before


def get(stand: Stand, case: Case, lines: str = "", client: Client | None = None) -> tuple[int, bytes]:
    request = f"GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode()
    status, _, body = stand.ask(case, request, client or Client())
    return status, body


LIMITS = {
    "all": ("{quota: {limit: 3, per: 1h, each: proxy, status: 503, body: enough}}", "", ""),
    "match": (
        "{match: request.headers.xa == 'a', quota: {limit: 3, per: 1h, each: proxy, status: 503, body: enough}}",
        "xa: a\r\n",
        "xa: b\r\n",
    ),
    "by": (
        "{quota: {limit: 3, per: 1h, by: ['request.headers[\"x-a\"]'], each: proxy, status: 503, body: enough}}",
        "x-a: a\r\n",
        "x-a: b\r\n",
    ),
    "absent": (
        "{quota: {limit: 3, per: 1h, by: ['request.headers[\"x-a\"]'], each: proxy, status: 503, body: enough}}",
        "",
        "x-a: b\r\n",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_each_proxy_is_the_same_in_envoy_and_in_mixer(stand: Stand, name: str) -> None:
    spec, these, others = LIMITS[name]
    compiled, called, inside = stand.hold({f"limit-{name}": spec})
    assert inside.closed == (), "nothing is left to ask about requests"
    assert len(inside.inside.limits) == 1
    for case in (compiled, called):
        assert [get(stand, case, these)[0] for _ in range(5)] == [200, 200, 200, 503, 503]
        assert get(stand, case, these)[1] == b"enough"
        if others:
            assert get(stand, case, others)[0] == 200


def test_limits_tell_identities_apart_and_each_says_its_own(stand: Stand) -> None:
    quota = "limit: 5, per: 1h, each: proxy, status: 503, body: of all"
    rules = {
        "who": "{quota: {limit: 2, per: 1h, by: [source.principal], each: proxy, body: of yours}}",
        "zpath": f"{{match: request.url_path == '/', quota: {{{quota}}}}}",
    }
    compiled, _, inside = stand.hold(rules)
    assert [limit.rule for limit in inside.inside.limits] == ["shop/who", "shop/zpath"]
    who = ("web", "web", "web", "cron", "cron", "old", "old", None)
    found = [get(stand, compiled, client=Client(identity=one)) for one in who]
    assert [status for status, _ in found] == [200, 200, 429, 200, 200, 200, 503, 200], "plain text is apart"
    assert (found[2][1], found[6][1]) == (b"of yours", b"of all")


def test_a_bucket_fills_evenly(stand: Stand) -> None:
    spec = "{quota: {limit: 4, per: 2s, each: proxy}}"
    compiled, called, _ = stand.hold({"bucket": spec})
    for case in (compiled, called):
        assert [get(stand, case)[0] for _ in range(6)] == [200] * 4 + [429] * 2
        time.sleep(1.1)  # two of four
        assert Counter(get(stand, case)[0] for _ in range(6)) == {200: 2, 429: 4}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("{quota: {limit: 3, per: 10ms, each: proxy}}", "filled every 50 ms at most"),
        ("{quota: {limit: 3, per: 1s, each: proxy, amount: size(request.method)}}", "its amount is worked out"),
        (
            "{quota: {limit: 3, per: 1s, each: proxy, by: [request.auth.claims.sub]}}",
            "counts by something that is no text",
        ),
        ("{quota: {limit: 3, per: 1s, each: proxy, by: [source.workload.name]}}", "whether there is a value"),
        ("{match: request.method.lowerAscii() == 'get', quota: {limit: 3, per: 1s, each: proxy}}", "do not have there"),
    ],
)
def test_a_limit_that_envoy_cannot_keep_is_kept_by_mixer(spec: str, why: str) -> None:
    calls = _calls({"it": spec}, called=False)
    assert (calls.closed, calls.inside.limits) == (("shop/it",), ())
    decoded = decode_documents(_yaml({"it": spec}).encode(), "rules.yaml")
    (part, *_) = explain(decoded.objects[0], decoded.objects, root_namespace="istio-system")
    assert (part.part, part.runs) == ("quota", "Mixer")
    assert why in part.why


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ('request.headers["a"] == "1"', ["a"]),
        ('request.headers.b != "x" && request.path == "/"', ["b"]),
        ('size(request.headers["a"]) > 1 && (request.headers.b.startsWith("x") && true)', ["a", "b"]),
        ('!(request.headers["a"] == "1")', ["a"]),
        ('"a" in request.headers && has(request.headers.b)', ["a", "b"]),
        ('request.headers["a"] in ["a"]', ["a"]),
        ('request.headers["a"] == "1" || true', []),
        ('!("a" in request.headers)', []),
        ('("a" in request.headers) == false', []),
        ("has(request.headers.a) == false", []),
        ('has(request.headers.a) ? true : request.headers.b == "a"', []),
        ('"a" in [request.headers["q"], "z"]', []),
    ],
)
def test_headers_without_which_a_condition_cannot_hold(text: str, headers: list[str]) -> None:
    assert sorted(need.text for need in needs_of(compile_expression(text)) if need.kind == "header") == headers


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ('request.method == "PUT" && request.url_path == "/a"', [("method", "PUT"), ("path", "/a")]),
        ('"/a" == request.path', [("path", "/a")]),
        ('request.path.startsWith("/a") && request.headers.b == "c"', [("header", "b"), ("prefix", "/a")]),
        ('request.path == "/a?b"', []),
        ('request.path.startsWith("")', []),
        ('request.method != "PUT"', []),
        ('request.path.endsWith("/a")', []),
        ('request.method == "PUT" || request.url_path == "/a"', []),
        ('(request.method == "PUT") == false', []),
        ("request.method == request.scheme", []),
    ],
)
def test_what_must_be_so_for_a_condition_to_hold(text: str, needs: list[tuple[str, str]]) -> None:
    assert sorted((need.kind, need.text) for need in needs_of(compile_expression(text))) == needs


COUNTED = {
    "all": "{report: {metric: {name: rule_all, labels: "
    "{who: source.serviceAccount, code: response.code, m: request.method}}}}",
    "some": "{match: response.code == 404 || request.headers.xa.lowerAscii() == 'b', "
    "report: {metric: {name: rule_some}}}",
    "refuse": "{match: request.url_path == '/no', check: {deny: {status: 404}}}",
    "bytes": "{report: {metric: {name: rule_bytes, labels: {ns: source.namespace, p: context.protocol}}}}",
}


def test_a_counter_is_kept_by_envoy(stand: Stand) -> None:
    """Of requests, also refused ones, and of connections; what is absent is an empty label."""
    compiled, _, inside = stand.hold(COUNTED)
    assert ([one.rule for one in inside.inside.counts], inside.reports) == (["shop/all", "shop/bytes", "shop/some"], ())
    assert ([one.rule for one in inside.inside.tcp_counts], inside.tcp_reports) == (["shop/bytes"], ())
    for who, path, xa in (
        ("web", "/", "B"),
        ("web", "/no", ""),
        (None, "/", ""),
        ("cron", "/", "b"),
        ("cron", "/", "c"),
    ):
        line = f"xa: {xa}\r\n" if xa else ""
        stand.ask(compiled, f"GET {path} HTTP/1.1\r\nhost: a\r\n{line}\r\n".encode(), Client(identity=who))
    for who in ("web", None, "cron", "cron"):
        assert stand.court.ask_tcp(compiled, Client(identity=who, to=("10.77.0.10", TCP_PORT)))

    def counted(name: str) -> dict[tuple[tuple[str, str], ...], float]:
        return {
            tuple(sorted((key, text) for key, text in one.labels.items() if text)): one.value
            for one in stand.court.envoy.samples(name)
        }

    wanted = {
        (("code", "200"), ("m", "GET"), ("who", "web")): 1,
        (("code", "404"), ("m", "GET"), ("who", "web")): 1,
        (("code", "200"), ("m", "GET")): 1,
        (("code", "200"), ("m", "GET"), ("who", "cron")): 2,
    }
    eventually(lambda: counted("rule_all") == wanted, what="all are counted")
    assert counted("rule_some") == {(): 3}
    http, tcp = ("p", "http"), ("p", "tcp")
    wanted = {(http,): 1, (("ns", "shop"), http): 2, (("ns", "batch"), http): 2}
    wanted |= {(tcp,): 1, (("ns", "shop"), tcp): 1, (("ns", "batch"), tcp): 2}
    eventually(lambda: counted("rule_bytes") == wanted, what="connections are counted")
    text = stand.court.envoy.admin("/stats/prometheus?filter=lateen_rule")
    assert "# TYPE rule_all counter" in complete(text.encode(), {}).decode()


@pytest.mark.parametrize(
    ("report", "why"),
    [
        ("{metric: {name: a, kind: GAUGE}}", "Envoy has no GAUGE for it"),
        ("{metric: {name: a, value: request.total_size}}", "Envoy's counters count by one"),
        ("{metric: {name: istio_requests_total}}", "its name is of a kind"),
        ("{metric: {name: a, labels: {b: response.flags}}}", "an expression of it reads response.flags"),
        ("{metric: {name: a, labels: {b: request.method.lowerAscii()}}}", "do not have there"),
        ("{metric: {name: a}, log: {fields: {b: request.path}}}", "Python makes of it what the rule says"),
    ],
)
def test_what_envoy_cannot_count_is_reported(report: str, why: str) -> None:
    spec = f"{{report: {report}}}"
    calls = _calls({"it": spec}, called=False)
    assert (calls.reports, calls.inside.counts) == (("shop/it",), ())
    decoded = decode_documents(_yaml({"it": spec}).encode(), "rules.yaml")
    part = explain(decoded.objects[0], decoded.objects, root_namespace="istio-system")[0]
    assert part.runs == "Mixer"
    assert why in part.why
