"""Reading the peer of a stream and summaries of certificates, without TLS (with it: tests/citadel)."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.certs import StrangeAuthority, pem_of, uri

from lateen.errors import BadInput
from lateen.wire.local import CertificateInfo
from lateen.wire.peer import peer_spiffe_id
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import read_certificate

ME = "spiffe://cluster.local/ns/default/sa/reviews"
KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER = StrangeAuthority(now=datetime(2026, 6, 1, tzinfo=UTC))
LEAF = ISSUER.certify(KEY, names=[uri(ME), x509.DNSName("reviews")])


class Context:
    """A gRPC context with just these properties."""

    def __init__(self, properties: dict[str, list[bytes]]) -> None:
        self.properties = properties

    def auth_context(self) -> dict[str, list[bytes]]:
        return self.properties


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param({"x509_pem_cert": [pem_of(LEAF)]}, ME, id="svid"),
        pytest.param({}, None, id="plain-text"),
        pytest.param({"x509_pem_cert": []}, None, id="no-certificate"),
        pytest.param({"x509_pem_cert": [pem_of(LEAF), pem_of(LEAF)]}, None, id="two"),
        pytest.param({"x509_pem_cert": [b"garbage"]}, None, id="garbage"),
        pytest.param({"x509_pem_cert": [ISSUER.root_pem]}, None, id="an-authority"),
        pytest.param({"peer_spiffe_id": [ME.encode()], "peer_uri": [ME.encode()]}, None, id="strings-alone"),
    ],
)
def test_peer_spiffe_id(properties: dict[str, list[bytes]], expected: str | None) -> None:
    assert peer_spiffe_id(Context(properties)) == expected


def test_summary() -> None:
    summary = read_certificate(pem_of(LEAF) + ISSUER.root_pem)
    assert summary.spiffe_id == SpiffeId("cluster.local", "default", "reviews")
    assert summary.not_after - summary.not_before == timedelta(hours=1, minutes=2)
    assert summary.info() == CertificateInfo(
        serial=f"{LEAF.serial_number:x}", not_before="2026-05-31T23:58:00Z", not_after="2026-06-01T01:00:00Z"
    )


def test_an_authority_has_no_workloads_identity() -> None:
    assert read_certificate(ISSUER.root_pem).spiffe_id is None


@pytest.mark.parametrize("pem", [b"", b"garbage", pem_of(LEAF)[:-100]])
def test_unreadable(pem: bytes) -> None:
    with pytest.raises(BadInput, match="no certificate in PEM"):
        read_certificate(pem)
