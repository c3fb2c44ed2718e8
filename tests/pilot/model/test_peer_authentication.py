"""Which mode is in force, by where PeerAuthentications stand: asked of the mesh's own collections."""

from __future__ import annotations

import pytest

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
