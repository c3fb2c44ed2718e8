"""Which mode is in force, by where PeerAuthentications stand: asked of the mesh's own collections."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.peer_modes import MODES, PeerPolicy, all_yaml, mode_of

from lateen.api.decode import decode_documents
from lateen.flow import Graph
from lateen.pilot.model.mesh import Mesh
from lateen.pilot.model.values import MtlsMode

LABELS = (("app", "a"),)
_MESH_WIDE = (
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: all, namespace: istio-system}, \
spec: {mtls: {mode: STRICT}}}"
)
_OF_ROOT = (
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: one, namespace: istio-system}, \
spec: {selector: {matchLabels: {app: a}}, mtls: {mode: DISABLE}}}"
)
_OF_SHOP = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: shop, namespace: shop}, \
spec: {mtls: {mode: PERMISSIVE}}}"


@pytest.mark.parametrize(
    ("written", "namespace", "mode"),
    [
        pytest.param([], "shop", MtlsMode.PERMISSIVE, id="nothing"),
        pytest.param([_MESH_WIDE], "shop", MtlsMode.STRICT, id="mesh-wide"),
        pytest.param([_MESH_WIDE, _OF_SHOP], "shop", MtlsMode.PERMISSIVE, id="namespace over mesh"),
        pytest.param([_MESH_WIDE, _OF_ROOT], "shop", MtlsMode.STRICT, id="selector in the root namespace: not here"),
        pytest.param([_MESH_WIDE, _OF_ROOT], "istio-system", MtlsMode.DISABLE, id="but in the root namespace itself"),
    ],
)
def test_the_mode_in_force(written: list[str], namespace: str, mode: MtlsMode) -> None:
    mesh = Mesh(graph := Graph())
    decoded = decode_documents("\n---\n".join(written).encode(), "it.yaml")
    assert len(decoded.objects) == len(written)
    with graph.batch():
        for obj in decoded.objects:
            mesh.objects.set(obj.key, obj)
    assert mesh.port_mtls.live((namespace, LABELS, 80)) is mode


# ---------------------------------------------------------------- any set of policies

NAMESPACES = ("istio-system", "shop", "other")
PORTS = (80, 8080, 9000)
_modes = st.sampled_from(MODES)
_labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["a", "b"]), max_size=2)


@st.composite
def _policies(draw: st.DrawFn) -> list[PeerPolicy]:
    found = []
    for number in range(draw(st.integers(0, 7))):
        selector = draw(_labels)
        found.append(
            PeerPolicy(
                name=f"p{number}",
                namespace=draw(st.sampled_from(NAMESPACES)),
                mode=draw(st.none() | _modes),
                selector=selector,
                ports=draw(st.dictionaries(st.sampled_from(PORTS), _modes, max_size=3)) if selector else {},
                age=draw(st.integers(0, 3)),  # often the same
            )
        )
    return found


@settings(max_examples=150, deadline=None)
@given(policies=_policies(), labels=_labels, order=st.randoms(use_true_random=False))
def test_any_set_of_policies_gives_every_port_the_mode_that_its_specification_says(
    policies: list[PeerPolicy], labels: dict[str, str], order: random.Random
) -> None:
    mesh = Mesh(graph := Graph())
    decoded = decode_documents(all_yaml(policies).encode(), "it.yaml")
    assert len(decoded.objects) == len(policies)
    objects = list(decoded.objects)
    order.shuffle(objects)
    own = tuple(sorted(labels.items()))
    for step in (objects[: len(objects) // 2], objects):  # all at once, and as they come
        with graph.batch():
            for obj in step:
                mesh.objects.set(obj.key, obj)
        standing = [policy for policy in policies if any(obj.key.name == policy.name for obj in step)]
        for namespace in NAMESPACES:
            for port in (*PORTS, 7):
                wanted = mode_of(standing, namespace, labels, port)
                assert mesh.port_mtls.live((namespace, own, port)).name == wanted, (namespace, port)
