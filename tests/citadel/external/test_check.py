"""What an external authority gave back, held against what was asked for: each lie on its own, and the truth."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from tests.fakes.certs import START, key_pem, p256_csr, pem_of, uri
from tests.fakes.signing import BOTH, CsrSigner, Lie

from lateen.citadel.external.check import (
    MAX_CHAIN_BYTES,
    check_external_intermediate,
    check_external_leaf,
    names_in_csr,
    parse_chain,
    parse_roots,
    split_chain,
    tolerance,
)
from lateen.citadel.external.issuer import own_csr
from lateen.citadel.template import LeafRequest, Validity
from lateen.errors import BadInput
from lateen.wire.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "reviews")
HOUR = timedelta(hours=1)
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def at_start() -> Any:
    return START


ROOT = CsrSigner("the root", clock=at_start)
MIDDLE = CsrSigner("the middle", parent=ROOT, path_length=0, clock=at_start)
FOREIGN = CsrSigner("the root", clock=at_start)  # the same name, another key
EXPIRED = CsrSigner("the middle", parent=ROOT, lifetime=timedelta(minutes=-1), clock=at_start)
NO_AUTHORITY = CsrSigner("a leaf", parent=ROOT, authority=False, clock=at_start)
TOO_DEEP = CsrSigner("too deep", parent=MIDDLE, clock=at_start)
WEAK_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
WEAK = CsrSigner("weak", parent=ROOT, clock=at_start, key=WEAK_KEY)
CSR = own_csr(KEY, ME)


def request(dns_names: tuple[str, ...] = ()) -> LeafRequest:
    validity = Validity(START, START + HOUR + tolerance(HOUR))
    return LeafRequest(public_key=KEY.public_key(), spiffe_id=ME, validity=validity, serial=1, dns_names=dns_names)


def problems(signer: CsrSigner, lie: Lie, between: tuple[CsrSigner, ...] = ()) -> list[str]:
    leaf = signer.sign(CSR, HOUR, lie)
    chain = [issuer.certificate for issuer in between]
    return list(check_external_leaf(leaf, chain, request(), [ROOT.certificate], START))


@pytest.mark.parametrize(
    ("signer", "between"),
    [
        pytest.param(ROOT, (), id="the root signs"),
        pytest.param(MIDDLE, (MIDDLE,), id="an intermediate signs"),
    ],
)
def test_the_truth_passes(signer: CsrSigner, between: tuple[CsrSigner, ...]) -> None:
    assert problems(signer, Lie(), between) == []


def test_a_leaf_without_basic_constraints_passes() -> None:
    """As Vault makes them: RFC 5280 takes a certificate without them for a leaf."""
    template = ROOT.sign(CSR, HOUR)
    builder = (
        x509.CertificateBuilder()
        .serial_number(1)
        .issuer_name(template.issuer)
        .subject_name(template.subject)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .public_key(KEY.public_key())
    )
    for extension in template.extensions:
        if not isinstance(extension.value, x509.BasicConstraints):
            builder = builder.add_extension(extension.value, extension.critical)
    leaf = builder.sign(ROOT.key, hashes.SHA256())
    assert list(check_external_leaf(leaf, [], request(), [ROOT.certificate], START)) == []


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        pytest.param(Lie(names=[uri("spiffe://cluster.local/ns/a/sa/b")]), "URI names", id="another identity"),
        pytest.param(Lie(names=[]), "it has no subjectAltName", id="no identity"),
        pytest.param(Lie(names=[uri(str(ME)), uri("spiffe://cluster.local/ns/a/sa/b")]), "URI names", id="two"),
        pytest.param(Lie(names=[uri(str(ME)), x509.DNSName("bank.example")]), "1 names besides", id="a DNS name more"),
        pytest.param(Lie(key=OTHER_KEY), "its key is not the requested one", id="another key"),
        pytest.param(Lie(authority=True), "it is an authority", id="CA:TRUE"),
        pytest.param(Lie(key_usage=False), "its key may sign certificates", id="key usage of a signer"),
        pytest.param(Lie(usages=[ExtendedKeyUsageOID.SERVER_AUTH]), "extended key usage", id="no client"),
        pytest.param(Lie(usages=[*BOTH, ExtendedKeyUsageOID.CODE_SIGNING]), "extended key usage", id="a usage more"),
        pytest.param(Lie(usages=None), "it has no extendedKeyUsage", id="no usage"),
        pytest.param(Lie(subject="admin"), "its subject is 'CN=admin'", id="a common name"),
        pytest.param(Lie(lifetime=HOUR * 1.2), "it holds until", id="too long"),
        pytest.param(Lie(lifetime=timedelta(seconds=-1)), "it is 12:00:00 now", id="over already"),
        pytest.param(Lie(begins=timedelta(minutes=1)), "it holds from", id="not yet"),
        pytest.param(Lie(issuer=FOREIGN), "leads to no trusted root", id="another root of the same name"),
        pytest.param(
            Lie(extension=x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
            "critical extension 1.2.3.4",
            id="a critical extension that nobody knows",
        ),
    ],
)
def test_a_lie_is_told(lie: Lie, told: str) -> None:
    found = problems(ROOT, lie)
    assert len(found) >= 1
    assert told in "; ".join(found)


@pytest.mark.parametrize(
    ("signer", "between", "told"),
    [
        pytest.param(EXPIRED, (EXPIRED,), "'CN=the middle': it holds from", id="an issuer that is over"),
        pytest.param(NO_AUTHORITY, (NO_AUTHORITY,), "'CN=a leaf': it is no authority", id="a leaf as issuer"),
        pytest.param(TOO_DEEP, (TOO_DEEP, MIDDLE), "1 authorities stand below it, and it allows 0", id="path length"),
        pytest.param(WEAK, (WEAK,), "RSA key of 1024 bits", id="a weak issuer"),
        pytest.param(MIDDLE, (), "it leads to no trusted root: its issuer is 'CN=the middle'", id="a gap"),
        pytest.param(MIDDLE, (TOO_DEEP, MIDDLE), "is not signed by 'CN=too deep', which", id="wrong order"),
        pytest.param(FOREIGN, (FOREIGN,), "is signed by none of the trusted roots", id="it brings its own root"),
    ],
)
def test_a_path_that_does_not_hold_is_told(signer: CsrSigner, between: tuple[CsrSigner, ...], told: str) -> None:
    assert told in "; ".join(problems(signer, Lie(), between))


def test_a_signature_that_envoy_cannot_verify_is_told() -> None:
    edwards = CsrSigner("edwards", clock=at_start)
    key = ed25519.Ed25519PrivateKey.generate()
    leaf = ROOT.sign(CSR, HOUR)
    builder = x509.CertificateBuilder(
        issuer_name=edwards.certificate.subject,
        subject_name=leaf.subject,
        public_key=KEY.public_key(),
        serial_number=1,
        not_valid_before=leaf.not_valid_before_utc,
        not_valid_after=leaf.not_valid_after_utc,
        extensions=list(leaf.extensions),
    )
    leaf = builder.sign(key, None)
    found = list(check_external_leaf(leaf, [edwards.certificate], request(), [ROOT.certificate], START))
    assert any("SHA-256" in problem for problem in found)


def test_the_control_planes_names_are_wanted_exactly() -> None:
    names = ("pilot.lateen.local",)
    leaf = ROOT.sign(own_csr(KEY, ME, names), HOUR)
    assert list(check_external_leaf(leaf, [], request(names), [ROOT.certificate], START)) == []
    found = list(check_external_leaf(ROOT.sign(CSR, HOUR), [], request(names), [ROOT.certificate], START))
    assert found == ["0 names besides the URI, wanted 1"]


# ---------------------------------------------------------------- intermediates


def of_intermediate(**lies: Any) -> Iterator[str]:
    certificate = ROOT.certify_authority(own_csr(KEY), lies.pop("lifetime", timedelta(days=30)), **lies)
    not_after = START + timedelta(days=30)
    return check_external_intermediate(
        certificate, [], key=KEY.public_key(), not_after=not_after, roots=[ROOT.certificate], now=START
    )


@pytest.mark.parametrize(
    ("lies", "told"),
    [
        pytest.param({}, [], id="the truth"),
        pytest.param({"authority": False}, ["it is no authority", "its key usage does not let it sign"], id="a leaf"),
        pytest.param({"key": OTHER_KEY}, ["its key is not the requested one"], id="another key"),
        pytest.param({"lifetime": timedelta(days=31)}, ["it holds until"], id="too long"),
        pytest.param({"lifetime": timedelta(seconds=-1)}, ["it holds from"], id="over"),
    ],
)
def test_intermediates(lies: dict[str, Any], told: list[str]) -> None:
    found = list(of_intermediate(**lies))
    assert len(found) == len(told)
    assert all(text in problem for text, problem in zip(told, found, strict=True))


def test_a_root_is_no_intermediate() -> None:
    found = check_external_intermediate(
        ROOT.certificate,
        [],
        key=ROOT.key.public_key(),
        not_after=START + timedelta(days=9999),
        roots=[ROOT.certificate],
        now=START,
    )
    assert "it is a root, wanted an intermediate" in list(found)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("pem", "told"),
    [
        pytest.param(b"", "got none", id="nothing"),
        pytest.param(b"hello", "got none", id="text"),
        pytest.param(key_pem(KEY), "got private key", id="a key"),
        pytest.param(ROOT.pem + key_pem(KEY), "got certificate, private key", id="a key behind"),
        pytest.param(ROOT.pem * 9, "got certificate, certificate", id="too many"),
        pytest.param(b"x" * (MAX_CHAIN_BYTES + 1), "at most 65536", id="too large"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read", id="no certificate"
        ),
    ],
)
def test_an_answer_that_is_no_chain(pem: bytes, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_chain(pem)
    assert told in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


def test_roots_in_an_answer_are_left_out() -> None:
    leaf = MIDDLE.sign(CSR, HOUR)
    chain = parse_chain(pem_of(leaf) + MIDDLE.pem + ROOT.pem)
    assert split_chain(chain, [ROOT.certificate]) == (leaf, (MIDDLE.certificate,))


def test_roots_are_authorities_that_signed_themselves() -> None:
    assert parse_roots(ROOT.pem + FOREIGN.pem + ROOT.pem, START) == (ROOT.certificate, FOREIGN.certificate)
    for pem, told in (
        (MIDDLE.pem, "'CN=the middle': it is not signed by its own key"),
        (NO_AUTHORITY.pem, "it is no authority"),
    ):
        with pytest.raises(BadInput, match=told):
            parse_roots(pem, START)
    with pytest.raises(BadInput, match="it holds from"):
        parse_roots(ROOT.pem, START + timedelta(days=4000))


# ---------------------------------------------------------------- the CSR that goes there

NAMES = x509.SubjectAlternativeName([uri(str(ME))])


def test_a_csr_may_carry_the_wanted_name_or_none() -> None:
    assert names_in_csr(p256_csr(extensions=[(NAMES, False)]), ME) is True
    assert names_in_csr(p256_csr(), ME) is False
    assert names_in_csr(own_csr(KEY, ME, ("pilot.lateen.local",)), ME, ("pilot.lateen.local",)) is True


@pytest.mark.parametrize(
    ("csr", "told"),
    [
        pytest.param(
            p256_csr(extensions=[(x509.SubjectAlternativeName([uri("spiffe://cluster.local/ns/a/sa/b")]), False)]),
            "asks for 'spiffe://cluster.local/ns/a/sa/b'",
            id="another identity",
        ),
        pytest.param(
            p256_csr(extensions=[(x509.SubjectAlternativeName([uri(str(ME)), x509.DNSName("*")]), False)]),
            "'*'",
            id="a name more",
        ),
        pytest.param(p256_csr(subject="admin"), "asks for subject 'CN=admin'", id="a subject"),
        pytest.param(
            p256_csr(extensions=[(NAMES, False), (x509.BasicConstraints(ca=True, path_length=None), True)]),
            "asks for basicConstraints",
            id="an authority",
        ),
        pytest.param(
            p256_csr(extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)]),
            "asks for extendedKeyUsage",
            id="a usage",
        ),
        pytest.param(
            p256_csr(extensions=[(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)]),
            "asks for 1.2.3.4",
            id="an extension that nobody knows",
        ),
    ],
)
def test_a_csr_that_asks_for_more_goes_nowhere(csr: bytes, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        names_in_csr(csr, ME)
    assert told in str(caught.value)
