"""CertificateSigningRequests, against the tests' own API server (`tests/fakes/kube_api.py`), which is no Kubernetes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.certs import uri
from tests.fakes.kube_api import KubeApi, denied
from tests.fakes.signing import Lie

from lateen.citadel.external.check import parse_roots
from lateen.citadel.external.config import AuthorityConfig
from lateen.citadel.external.guard import Guard
from lateen.citadel.external.interface import Order
from lateen.citadel.external.issuer import ExternalIssuer, own_csr
from lateen.citadel.external.kubernetes import KubernetesAuthority
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.wire.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "reviews")
HOUR = timedelta(hours=1)
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = own_csr(KEY, ME)
OTHER_CSR = own_csr(ec.generate_private_key(ec.SECP256R1()), ME)
ORDER = Order(profile="leaf", csr=CSR, lifetime=HOUR, spiffe_id=ME)

Make = Callable[..., KubernetesAuthority]


@pytest.fixture
def make(kube: KubeApi, configured: Callable[[str], AuthorityConfig]) -> Make:
    def authority(extra: str = "") -> KubernetesAuthority:
        config = configured(f"""
kind: kubernetes
timeout: 2s
parameters:
  server: {kube.url}
  caFile: {kube.ca_file}
  tokenFile: {kube.token_file}
  signerName: acme.example/mesh
  {extra}
""")
        made = config.make()
        assert isinstance(made, KubernetesAuthority)
        return made

    return authority


def issuer_of(authority: KubernetesAuthority, kube: KubeApi, seconds: float = 2.0) -> ExternalIssuer:
    guard = Guard(authority, name="kubernetes", timeout=timedelta(seconds=seconds), concurrency=8)
    return ExternalIssuer(guard, "cluster.local", parse_roots(kube.root.pem, datetime.now(UTC)))


async def test_a_certificate_is_asked_for_approved_read_and_cleared_away(make: Make, kube: KubeApi) -> None:
    authority = make()
    issued = await issuer_of(authority, kube).issue(CSR, ME, HOUR)
    leaf = x509.load_pem_x509_certificate(issued.leaf)
    leaf.verify_directly_issued_by(kube.root.certificate)
    assert leaf.public_key() == KEY.public_key()
    await authority.close()
    (seen,) = kube.seen
    assert seen["spec"] == {
        "request": base64.b64encode(CSR).decode(),
        "signerName": "acme.example/mesh",
        "expirationSeconds": 3600,
        "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
    }
    assert kube.requests == {}
    assert kube.deleted == [seen["metadata"]["name"]]


async def test_many_at_once(make: Make, kube: KubeApi) -> None:
    authority = make()
    issuer = issuer_of(authority, kube, seconds=20)
    issued = await asyncio.gather(*(issuer.issue(CSR, ME, HOUR) for _ in range(30)))
    assert len({one.serial for one in issued}) == 30
    await authority.close()
    assert len(kube.deleted) == 30


@pytest.mark.parametrize("kind", ["Denied", "Failed"])
async def test_no_is_an_answer_with_its_reason(make: Make, kube: KubeApi, kind: str) -> None:
    kube.decide = lambda _: denied(kind, "Policy", "not in this namespace")
    authority = make()
    with pytest.raises(Refused, match=f"lateen-[0-9a-f]+ is {kind}: Policy: not in this namespace"):
        await authority.sign(ORDER)
    await authority.close()
    assert kube.requests == {}


async def test_a_signer_that_does_nothing_is_given_up_and_the_object_cleared_away(make: Make, kube: KubeApi) -> None:
    kube.decide = lambda _: None
    authority = make()
    with pytest.raises(Unavailable, match=r"kubernetes gave no answer within 0\.3 s"):
        await issuer_of(authority, kube, seconds=0.3).issue(CSR, ME, HOUR)
    await authority.close()
    assert len(kube.seen) == 1
    assert kube.requests == {}


async def test_somebody_else_approves(make: Make, kube: KubeApi) -> None:
    authority = make("approve: false")
    with pytest.raises(Unavailable, match="gave no answer"):
        await issuer_of(authority, kube, seconds=0.3).issue(CSR, ME, HOUR)
    assert all("conditions" not in seen["status"] for seen in kube.seen)
    kube.change = lambda made: made.update(status={"conditions": [{"type": "Approved", "status": "True"}]}, polls=0)
    assert (await issuer_of(authority, kube).issue(CSR, ME, HOUR)).serial
    await authority.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("request", base64.b64encode(OTHER_CSR).decode(), id="CSR"),
        pytest.param("signerName", "evil.example/ca", id="signer"),
        pytest.param("usages", ["cert sign"], id="usages"),
    ],
)
async def test_what_was_changed_on_its_way_is_not_approved(make: Make, kube: KubeApi, field: str, value: Any) -> None:
    kube.change = lambda made: made.update(spec={**made["spec"], field: value})
    authority = make()
    with pytest.raises(Refused, match="came back changed from the API server, so it is not approved"):
        await authority.sign(ORDER)
    await authority.close()
    assert kube.requests == {}


@pytest.mark.parametrize(
    ("order", "kind", "told"),
    [
        pytest.param(replace(ORDER, names_in_csr=False), BadInput, "takes them from nowhere else", id="no names"),
        pytest.param(replace(ORDER, lifetime=timedelta(seconds=599)), Refused, "for 0:10:00 at least", id="too short"),
    ],
)
async def test_what_is_never_sent(make: Make, kube: KubeApi, order: Order, kind: type[LateenError], told: str) -> None:
    with pytest.raises(kind, match=told):
        await make().sign(order)
    assert kube.seen == []


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        pytest.param(Lie(names=[uri("spiffe://cluster.local/ns/a/sa/b")]), "URI names", id="another identity"),
        pytest.param(Lie(authority=True), "it is an authority", id="CA:TRUE"),
        pytest.param(Lie(key=ec.generate_private_key(ec.SECP256R1())), "its key is not the requested one", id="key"),
        pytest.param(Lie(lifetime=timedelta(days=365)), "it holds until", id="too long"),
    ],
)
async def test_a_lying_signer_is_caught(make: Make, kube: KubeApi, lie: Lie, told: str) -> None:
    kube.lie = lie
    issuer = issuer_of(make(), kube)
    with pytest.raises(Unavailable, match=f"gave a certificate that must not be used: .*{told}"):
        await issuer.issue(CSR, ME, HOUR)
    assert issuer.issued == 0


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        pytest.param({"certificate": "%%%"}, "status.certificate is no base64 text", id="no base64"),
        pytest.param({"certificate": base64.b64encode(b"hello").decode()}, "got none", id="no certificate"),
        pytest.param({"certificate": 5}, "is no base64 text", id="a number"),
    ],
)
async def test_nonsense_is_told(make: Make, kube: KubeApi, verdict: dict[str, Any], told: str) -> None:
    kube.decide = lambda _: verdict
    with pytest.raises(Unavailable, match=told):
        await issuer_of(make(), kube).issue(CSR, ME, HOUR)


async def test_a_token_that_is_not_taken_and_its_successor(make: Make, kube: KubeApi) -> None:
    authority = make()
    kube.token_file.write_text("tok-old")
    with pytest.raises(Refused, match="status 401: Unauthorized") as caught:
        await authority.sign(ORDER)
    assert "tok-" not in str(caught.value)
    kube.token_file.write_text(kube.token)  # as the kubelet does
    assert b"BEGIN CERTIFICATE" in await authority.sign(ORDER)
    kube.token_file.unlink()
    with pytest.raises(Unavailable, match="kube-token cannot be read: No such file"):
        await authority.sign(ORDER)
    await authority.close()


async def test_an_api_server_that_is_not_well(make: Make, kube: KubeApi) -> None:
    kube.fail_with = 500
    authority = make()
    with pytest.raises(Unavailable, match="status 500: the server is not well"):
        await authority.sign(ORDER)
    kube.fail_with = 0
    await authority.sign(ORDER)
    await authority.close()
    assert authority.describe() == {"address": kube.url, "signerName": "acme.example/mesh"}
