"""Which policies are for a proxy, and which proxies a change of one is looked at for."""

from __future__ import annotations

import pytest

from lateen.api.base import ResourceKey
from lateen.api.decode import decode_documents
from lateen.flow import Graph
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.mesh import Mesh

KIND = "AuthorizationPolicy"
Labels = tuple[tuple[str, str], ...]


class Policies:
    """A mesh that policies are written into, and what is attached in it."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.mesh = Mesh(self.graph)
        self.attachment = Attachment(self.mesh, KIND)
        self.recomputed: list[str] = []

    def write(self, name: str, spec: str, *, namespace: str = "shop", created: str = "") -> None:
        stamp = f', creationTimestamp: "{created}"' if created else ""
        text = f"""
apiVersion: security.istio.io/v1
kind: {KIND}
metadata: {{name: {name}, namespace: {namespace}{stamp}}}
spec: {spec}
"""
        decoded = decode_documents(text.encode(), "test.yaml")
        assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
        with self.graph.batch():
            for obj in decoded.objects:
                self.mesh.objects.set(obj.key, obj)

    def names(self, *labels: tuple[str, str], kind: str = "sidecar", namespace: str = "shop") -> list[str]:
        found: tuple[ResourceKey, ...] = self.attachment.attached.peek((kind, namespace, tuple(sorted(labels))))
        return [f"{key.namespace}/{key.name}" for key in found]

    def follow(self, *labels: tuple[str, str], namespace: str = "shop") -> None:
        """Keep what is attached to such a workload up to date, and note when its policies are read anew."""
        name = dict(labels).get("app", namespace)

        def say(read: object, key: str) -> int:
            self.recomputed.append(name)
            return len(
                self.attachment.policies(
                    read,  # type: ignore[arg-type]  # the engine hands it over
                    kind="sidecar",
                    namespace=namespace,
                    labels=tuple(sorted(labels)),
                )
            )

        self.graph.derive(f"watch {name}", say).live("it", 0)
        self.recomputed.clear()


REVIEWS = ("app", "reviews")
EDGE = ("gateway.networking.k8s.io/gateway-name", "edge")
TARGET = "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]}"


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        pytest.param((), ["istio-system/mesh", "shop/all"], id="no labels"),
        pytest.param(
            (REVIEWS,), ["istio-system/mesh", "istio-system/every-reviews", "shop/all", "shop/reviews"], id="one label"
        ),
        pytest.param(
            (REVIEWS, ("version", "v1")),
            ["istio-system/mesh", "istio-system/every-reviews", "shop/all", "shop/reviews", "shop/reviews-v1"],
            id="both labels of a selector",
        ),
        pytest.param((("app", "details"),), ["istio-system/mesh", "shop/all"], id="another value"),
    ],
)
def test_selectors_and_the_root_namespace(labels: Labels, found: list[str]) -> None:
    policies = Policies()
    policies.write("all", "{}", created="2026-01-01T00:00:00Z")
    policies.write("reviews", "{selector: {matchLabels: {app: reviews}}}", created="2026-01-02T00:00:00Z")
    policies.write(
        "reviews-v1", "{selector: {matchLabels: {version: v1, app: reviews}}}", created="2026-01-03T00:00:00Z"
    )
    policies.write("elsewhere", "{}", namespace="other")
    policies.write("mesh", "{}", namespace="istio-system", created="2026-02-01T00:00:00Z")
    policies.write(
        "every-reviews",
        "{selector: {matchLabels: {app: reviews}}}",
        namespace="istio-system",
        created="2026-02-02T00:00:00Z",
    )
    assert policies.names(*labels) == found


def test_policies_of_the_root_namespace_count_once_there() -> None:
    policies = Policies()
    policies.write("mesh", "{}", namespace="istio-system")
    assert policies.names(namespace="istio-system") == ["istio-system/mesh"]


def test_older_policies_come_first() -> None:
    policies = Policies()
    policies.write("young", "{}", created="2026-03-01T00:00:00Z")
    policies.write("old", "{}", created="2026-01-01T00:00:00Z")
    assert policies.names() == ["shop/old", "shop/young"]


def test_a_target_is_the_gateway_of_that_name_in_its_own_namespace_and_nobody_else() -> None:
    policies = Policies()
    policies.write("edge", TARGET)
    policies.write("of-root", TARGET, namespace="istio-system")
    policies.write("service", "{targetRefs: [{group: '', kind: Service, name: reviews}]}")
    assert policies.names(EDGE, kind="gateway") == ["shop/edge"]
    assert policies.names(("gateway.networking.k8s.io/gateway-name", "other"), kind="gateway") == []
    assert policies.names(EDGE, kind="gateway", namespace="other") == []
    assert policies.names(EDGE) == []  # a sidecar that calls itself a gateway
    assert policies.names() == []
    assert policies.names(EDGE, kind="gateway", namespace="istio-system") == ["istio-system/of-root"]


def test_a_selector_is_for_gateways_too() -> None:
    policies = Policies()
    policies.write("in-front", "{selector: {matchLabels: {istio: ingressgateway}}}")
    assert policies.names(("istio", "ingressgateway"), EDGE, kind="gateway") == ["shop/in-front"]


def test_a_change_is_looked_at_by_the_workloads_that_it_is_for_alone() -> None:
    policies = Policies()
    policies.write("reviews", "{selector: {matchLabels: {app: reviews}}, rules: [{}]}")
    policies.write("all", "{rules: [{}]}", namespace="other")
    policies.follow(REVIEWS)
    policies.follow(("app", "details"))
    policies.follow(("app", "third"), namespace="other")
    policies.write("reviews", "{selector: {matchLabels: {app: reviews}}, rules: []}")
    assert policies.recomputed == ["reviews"]
    policies.recomputed.clear()
    policies.write("reviews", "{selector: {matchLabels: {app: details}}, rules: []}")
    assert sorted(policies.recomputed) == ["details", "reviews"]
    policies.recomputed.clear()
    policies.write("new", "{selector: {matchLabels: {app: reviews}}}")
    assert policies.recomputed == ["reviews"]
