"""Whom to believe, when it cannot be told: nothing is signed by what proxies have not heard of."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fakes.certs import pem_of
from tests.fakes.pki import make_link

from lateen.api.decode import decode_documents
from lateen.citadel.rotation import Phase
from lateen.pilot.serving.certificates import CertificateOptions, Certificates
from lateen.pilot.serving.federation import Federation
from lateen.pilot.serving.trust import Proxies, TrustSlice
from lateen.pilot.xds.type_urls import TRUST
from lateen.settings import Settings
from lateen.wire.authority import RotateOrder
from lateen.wire.local import CertificateInfo, Registration
from lateen.wire.trust import MAX_ROOTS

HEAD = "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec:\n  caCertificates:\n"


def config(roots: int) -> Any:
    """Return a MeshConfig by which so many roots more are believed for the mesh's own trust domain."""
    pems = "".join(pem_of(make_link(f"r{n}").certificate).decode() for n in range(roots))
    lines = "".join(f"      {line}\n" for line in pems.splitlines())
    (obj,) = decode_documents(f"{HEAD}  - pem: |\n{lines}".encode(), "mesh.yaml").objects
    return obj


async def test_a_root_that_cannot_be_told_does_not_sign(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path)
    async with Certificates(settings, CertificateOptions(settle=timedelta(0))) as certificates:
        slice = TrustSlice(lambda _: None)
        info = CertificateInfo(
            serial="1", not_before="", not_after="", signing_path=certificates.authority.signing_path
        )
        workload = Registration(name="w", ip="10.77.0.2", pid=1, start_ticks=1, certificate=info)
        stream: Any = SimpleNamespace(
            proxy=SimpleNamespace(name="w"),
            types={TRUST: SimpleNamespace(rejected={})},
            held=lambda _: {"trust": slice.version},  # it takes whatever it is told
        )
        certificates.follow(Proxies(slice, lambda: [stream], lambda: [workload]))
        federation = certificates.federation = Federation(
            SimpleNamespace(),  # type: ignore[arg-type]  # nothing is fetched
            tmp_path / "federation.json",
            "cluster.local",
            on_change=certificates.publish_trust,
        )
        federation.configure(config(MAX_ROOTS - 1))
        assert certificates.problems() == []
        assert len(certificates.trust.bundle.roots["cluster.local"]) == MAX_ROOTS
        service = certificates.root_service
        report = await service.rotate(RotateOrder(action="root"))  # makes one root too many
        service.look()
        assert certificates.roots.state.phase is Phase.DISTRIBUTING
        assert [each.workload for each in report.rotation.waits_for] == ["w"]
        (problem,) = certificates.problems()
        assert problem.level == "error"
        assert f"{MAX_ROOTS + 1} roots, at most {MAX_ROOTS} wanted" in problem.message
        federation.configure(config(1))
        assert certificates.problems() == []
        service.look()
        assert certificates.roots.state.phase is Phase.REISSUING
