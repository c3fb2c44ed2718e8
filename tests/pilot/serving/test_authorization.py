"""AuthorizationPolicies in a Pilot: what is told of them, and what a change of one costs."""

from __future__ import annotations

import pytest
from tests.pilot.serving.conftest import Bench, make_workload

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: it, namespace: default}
spec: {mtls: {mode: STRICT}}
"""


def policy(spec: str, *, name: str = "it", namespace: str = "default") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def told(bench: Bench) -> list[tuple[str, str]]:
    """Return (field, level) of all that is told, in the order of the resource."""
    return sorted((problem.field, problem.level) for problem in bench.pilot.problems())


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        pytest.param(
            "{rules: [{from: [{source: {notNamespaces: [a], notPrincipals: ['*/b']}}]}]}",
            ["spec.rules[0].from[0].source.notNamespaces", "spec.rules[0].from[0].source.notPrincipals"],
            id="allow whom it does not name",
        ),
        pytest.param(
            "{rules: [{from: [{source: {namespaces: ['*'], notPrincipals: ['*/b']}}]}]}", [], id="but somebody"
        ),
        pytest.param(
            "{rules: [{when: [{key: source.namespace, notValues: [a]}]}]}",
            ["spec.rules[0].when[0].notValues"],
            id="allow by a condition",
        ),
        pytest.param(
            "{rules: [{from: [{source: {principals: ['*']}}], when: [{key: source.namespace, notValues: [a]}]}]}",
            [],
            id="by a condition of somebody",
        ),
        pytest.param(
            "{action: DENY, rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ['80']}}]}]}",
            ["spec.rules[0].from[0].source.namespaces"],
            id="deny whom it names",
        ),
        pytest.param("{action: DENY, rules: [{from: [{source: {notNamespaces: [a]}}]}]}", [], id="deny all others"),
        pytest.param("{rules: [{from: [{source: {namespaces: [a]}}]}]}", [], id="allow whom it names"),
    ],
)
def test_identities_where_plain_text_is_taken(bench: Bench, spec: str, fields: list[str]) -> None:
    bench.apply(policy(spec))
    assert told(bench) == [(field, "warning") for field in fields]
    bench.apply(STRICT)
    assert told(bench) == []


def test_a_target_that_is_no_gateway_is_told(bench: Bench) -> None:
    gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}"
    bench.apply(policy(f"{{targetRefs: [{{group: '', kind: Service, name: a}}, {gateway}]}}"))
    assert told(bench) == [("spec.targetRefs[0].kind", "warning")]


def test_an_authorizer_is_told_as_long_as_it_cannot_be_asked(bench: Bench) -> None:
    bench.apply(policy("{action: CUSTOM, provider: {name: ask}, rules: [{}]}"))
    assert told(bench) == [("spec.provider.name", "error")]
    bench.apply("""
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {extensionProviders: [{name: ask, envoyExtAuthzGrpc: {service: ask.default.svc.cluster.local, port: 9000}}]}
""")
    (problem,) = bench.pilot.problems()
    assert "ask.default.svc.cluster.local is not known" in problem.message
    bench.apply("""
apiVersion: v1
kind: Service
metadata: {name: ask, namespace: default}
spec: {ports: [{port: 9000, name: grpc}], selector: {app: ask}}
""")
    assert told(bench) == []


def test_a_policy_costs_the_workloads_that_it_is_for_and_no_others(bench: Bench) -> None:
    bench.run(
        *(
            make_workload(f"{app}-{version}", app, version, f"10.77.0.{number}")
            for number, (app, version) in enumerate((app, version) for app in "abc" for version in ("v1", "v2"))
        )
    )
    for app in "abc":
        for version in ("v1", "v2"):
            bench.connect(f"{app}-{version}")
    recomputed: list[str] = []
    graph, inbound = bench.pilot.graph, bench.pilot.render.inbound_listeners
    graph.on_change(inbound, lambda changes: recomputed.extend(key for key, _, _ in changes))
    spec = "{selector: {matchLabels: {app: a}}, rules: [{to: [{operation: {methods: [%s]}}]}]}"
    for change in (policy(spec % "GET"), policy(spec % "PUT")):
        bench.recorder.take()
        recomputed.clear()
        bench.apply(change)
        assert sorted(recomputed) == ["a-v1", "a-v2"]
        assert bench.recorder.take() == {"Listener": (["virtualInbound"] * 2, [])}
    recomputed.clear()
    bench.apply("\n" + policy(spec % "PUT"))  # the same, further down in its file
    bench.apply(policy("{selector: {matchLabels: {app: nobody}}}", name="other"))
    assert (recomputed, bench.recorder.take()) == ([], {})
    bench.apply(policy("{selector: {matchLabels: {app: b}}}", name="other"))
    assert sorted(recomputed) == ["b-v1", "b-v2"]
    recomputed.clear()
    bench.delete("AuthorizationPolicy", "it")
    assert sorted(recomputed) == ["a-v1", "a-v2"]
