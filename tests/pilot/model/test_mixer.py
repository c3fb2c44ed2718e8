"""Which rules a proxy asks Mixer about, and what Envoy is to send."""

from __future__ import annotations

from datetime import timedelta

from lateen.api.base import ResourceKey
from lateen.api.decode import decode_documents
from lateen.flow import Graph
from lateen.pilot.model.findings import Finding
from lateen.pilot.model.mesh import Mesh
from lateen.pilot.model.mixer import MixerRules
from lateen.pilot.model.mixer_findings import MixerFindings
from lateen.pilot.model.values_called import NO_CALLS, MixerCalls

Labels = tuple[tuple[str, str], ...]
WEB: Labels = (("app", "web"),)


class Written:
    """A mesh with rules."""

    def __init__(self, socket: str = "/run/mixer.sock") -> None:
        self.graph = Graph()
        self.mesh = Mesh(self.graph)
        self.rules = MixerRules(self.mesh, socket)
        self._findings = MixerFindings(self.mesh)

    def rule(self, name: str, spec: str, *, namespace: str = "shop") -> None:
        text = (
            "apiVersion: mixer.lateen.io/v1alpha1\nkind: Rule\n"
            f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
        self.put(text)

    def findings(self, name: str) -> tuple[Finding, ...]:
        found: tuple[Finding, ...] = self._findings.found.peek(ResourceKey("Rule", "shop", name))
        return found

    def put(self, text: str) -> None:
        decoded = decode_documents(text.encode(), "it.yaml")
        assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
        with self.graph.batch():
            for obj in decoded.objects:
                self.mesh.objects.set(obj.key, obj)

    def calls(
        self, *, kind: str = "sidecar", namespace: str = "shop", labels: Labels = (("app", "web"),)
    ) -> MixerCalls:
        found: MixerCalls = self.rules._calls.peek((kind, namespace, labels))
        return found


def test_what_proxies_ask() -> None:
    mesh = Written()
    assert mesh.calls() == NO_CALLS
    mesh.rule("all", "{match: source.ip == 'x', check: {deny: {}}, timeout: 2s}", namespace="istio-system")
    mesh.rule("open", "{match: 'size(request.headers[\"x-a\"]) > 1', quota: {limit: 1, per: 1s}, failurePolicy: open}")
    mesh.rule("bytes-too", "{match: source.port > 1, quota: {limit: 1, per: 1s}}")
    mesh.rule("other", "{selector: {matchLabels: {app: other}}, check: {deny: {}}}")
    mesh.rule("told", "{match: response.code > 1, report: {log: {fields: {a: 'response.headers[\"x-b\"]'}}}}")
    mesh.rule("bytes", "{report: {metric: {name: m, labels: {who: source.principal}}}}")
    found = mesh.calls()
    assert found.closed == ("istio-system/all", "shop/bytes-too")
    assert found.open == ("shop/open",)
    assert (found.tcp_closed, found.tcp_open) == (("shop/bytes-too",), ())
    assert [refusal.rule for refusal in found.inside.tcp_denies] == ["istio-system/all"]
    assert found.reports == ("shop/told",)
    assert found.tcp_reports == ()
    assert [count.rule for count in found.inside.counts] == ["shop/bytes"]
    assert [count.rule for count in found.inside.tcp_counts] == ["shop/bytes"]
    assert found.timeout == timedelta(seconds=2)
    assert found.request_headers == ("x-a",)
    assert found.report_response_headers == ("x-b",)
    assert found.attributes == {"source.ip", "source.port", "request.headers"}
    assert found.identity == "spiffe://cluster.local/ns/istio-system/sa/lateen-mixer"
    assert mesh.calls(namespace="bank").closed == ("istio-system/all",)
    assert mesh.calls(kind="gateway").kind == "outbound"
    other = mesh.calls(labels=(("app", "other"),))
    assert [refusal.rule for refusal in other.inside.denies] == ["shop/other"]


def test_a_rule_that_looks_at_all_headers_is_sent_all() -> None:
    mesh = Written()
    mesh.rule("all", "{match: size(request.headers) > 3, check: {deny: {}}}")
    assert mesh.calls().request_headers is None


def test_what_a_rule_that_is_asked_does_with_a_match_is_no_proxys_business() -> None:
    mesh = Written()
    mesh.rule("it", "{quota: {limit: 1, per: 1s}}")
    before = mesh.calls()
    mesh.rule("it", "{quota: {limit: 2, per: 1m, status: 503, body: gone}}")
    assert mesh.calls() == before


def test_what_is_asked_is_asked_where_it_may_matter() -> None:
    mesh = Written()
    mesh.rule("a", "{match: request.method == 'GET', quota: {limit: 1, per: 1s}}")
    found = mesh.calls()
    assert found.closed_when is not None
    assert found.open_when is None
    mesh.rule("b", "{match: request.method == 'GET', quota: {limit: 1, per: 1s}, failurePolicy: open}")
    assert mesh.calls().open_when == found.closed_when
    mesh.rule("c", "{quota: {limit: 1, per: 1s}}")
    assert mesh.calls().closed_when is None
    mesh.rule("c", "{match: source.ip == 'x', quota: {limit: 1, per: 1s}}")
    assert mesh.calls().closed_when is None, "Envoy cannot tell"


def test_rules_that_allow_are_decided_together() -> None:
    mesh = Written()
    mesh.rule("a", "{match: request.method == 'GET', check: {allow: {}}}")
    mesh.rule("b", "{match: request.method == 'PUT', check: {deny: {}}}")
    found = mesh.calls()
    assert ([one.rule for one in found.inside.allows], found.closed) == (["shop/a"], ())
    assert not found.needed
    mesh.rule("c", "{match: request.query_params.a == 'b', check: {allow: {}}}")
    found = mesh.calls()
    assert (found.inside.allows, found.closed) == ((), ("shop/a", "shop/c"))
    assert [one.rule for one in found.inside.denies] == ["shop/b"]
    assert found.closed_when is None, "who is not allowed is refused, so everything is asked about"


def test_without_a_mixer_nobody_asks() -> None:
    mesh = Written(socket="")
    mesh.rule("it", "{check: {deny: {}}}")
    assert mesh.calls() == NO_CALLS


GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
"""


def test_a_rule_for_a_gateway() -> None:
    mesh = Written()
    ingress = {"kind": "gateway", "labels": (("app", "x"), ("istio", "ingressgateway"))}
    denies = "match: request.method == 'PUT', check: {deny: {}}}"
    mesh.rule("it", "{gateway: edge, " + denies)
    assert mesh.calls(**ingress) == NO_CALLS, "the Gateway is not there yet"
    assert [one.field for one in mesh.findings("it")] == ["spec.gateway"]
    mesh.put(GATEWAY)
    assert [one.rule for one in mesh.calls(**ingress).inside.denies] == ["shop/it"]
    assert mesh.findings("it") == ()
    assert mesh.calls() == NO_CALLS, "a workload serves no Gateway"
    assert mesh.calls(kind="gateway", labels=(("istio", "egressgateway"),)) == NO_CALLS
    assert mesh.calls(**{**ingress, "namespace": "bank"}) == NO_CALLS, "of another namespace"
    mesh.rule("it", "{gateway: shop/edge, " + denies, namespace="istio-system")
    assert [one.rule for one in mesh.calls(**{**ingress, "namespace": "bank"}).inside.denies] == ["istio-system/it"]
    mesh.put(GATEWAY.replace("ingressgateway", "other"))
    assert mesh.calls(**ingress) == NO_CALLS
