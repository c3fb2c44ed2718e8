"""Assurance 10: whatever a CSR says, the certificate carries the caller's identity and the CSR's key, and nothing else.

Through the whole service, as a caller meets it, with random and with chosen hostile requests; the certificate that
comes back is compared with its profile, extension by extension.
"""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.certs import START, ManualClock, make_csr, p256_csr, uri

from lateen.citadel.authenticate import CallContext, Caller
from lateen.citadel.authority import Authority, LocalSigner
from lateen.citadel.service import CertificateService
from lateen.citadel.template import MAX_CSR_BYTES, build_root
from lateen.wire.ca import IstioCertificateRequest, IstioCertificateResponse
from lateen.wire.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "reviews")
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = build_root(ROOT_KEY.public_key(), "cluster.local", START, 1).sign(ROOT_KEY, hashes.SHA256())
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
RSA2048 = rsa.generate_private_key(65537, 2048)
OTHER = "spiffe://cluster.local/ns/istio-system/sa/lateen"


class Me:
    """Recognises everybody as the same caller."""

    async def authenticate(self, context: CallContext) -> Caller | None:
        return Caller(ME, "test")


class Refusal(Exception):
    """What the service would have sent as a status."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class Context:
    """The part of a gRPC context that is used."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, code: StatusCode, details: str) -> None:
        raise Refusal(code, details)


class Quiet:
    """A log that nobody reads."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


AUTHORITY = Authority(LocalSigner(ROOT, ROOT_KEY), "cluster.local", ManualClock())


def issue(csr: bytes) -> x509.Certificate:
    """Return what the service gives for a CSR. Raises `Refusal`."""
    service = CertificateService(AUTHORITY, [Me()], clock=ManualClock(), log=Quiet())
    request = IstioCertificateRequest(csr=csr.decode("latin-1")).SerializeToString()
    answer = asyncio.run(service.create_certificate(request, Context()))
    return x509.load_pem_x509_certificate(IstioCertificateResponse.FromString(answer).cert_chain[0].encode())


def assert_profile(leaf: x509.Certificate, key: Any) -> None:
    """The whole certificate, so that nothing can be in it that is not named here."""
    assert leaf.public_key() == key.public_key()
    assert leaf.subject == x509.Name([])
    assert leaf.version is x509.Version.v3
    leaf.verify_directly_issued_by(ROOT)
    assert leaf.not_valid_after_utc - START == timedelta(hours=24)
    identifier = ROOT.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert {extension.oid: (extension.critical, extension.value) for extension in leaf.extensions} == {
        x509.BasicConstraints.oid: (True, x509.BasicConstraints(ca=False, path_length=None)),
        x509.KeyUsage.oid: (True, x509.KeyUsage(True, False, True, False, False, False, False, False, False)),
        x509.ExtendedKeyUsage.oid: (
            False,
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        ),
        x509.SubjectAlternativeName.oid: (True, x509.SubjectAlternativeName([uri(str(ME))])),
        x509.AuthorityKeyIdentifier.oid: (
            False,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
        ),
    }


# ---- random requests

_texts = st.text(st.characters(codec="ascii", exclude_characters="\n\r"), max_size=300)
_names = st.one_of(
    st.sampled_from([OTHER, f"{ME}\0.evil", f"{ME}/x", "spiffe://*/ns/*/sa/*", "*", "spiffe://"]).map(uri),
    _texts.map(uri),
    _texts.map(x509.DNSName),
    st.sampled_from(["*", "pilot.lateen.local", "join.lateen.local", "*.default.svc.cluster.local"]).map(x509.DNSName),
    st.sampled_from(["a@b", "lateen@istio-system"]).map(x509.RFC822Name),
    st.ip_addresses().map(x509.IPAddress),
    st.just(x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))),
)
_oids = st.lists(st.integers(0, 2**31), min_size=1, max_size=5).map(
    lambda parts: x509.ObjectIdentifier(".".join(["1", "3", *map(str, parts)]))
)
_usages = st.tuples(*[st.booleans()] * 9).map(lambda bits: (*bits[:7], bits[4] and bits[7], bits[4] and bits[8]))
_extensions = st.one_of(
    st.lists(_names, min_size=1, max_size=20).map(x509.SubjectAlternativeName),
    st.builds(x509.BasicConstraints, ca=st.just(True), path_length=st.none() | st.integers(0, 10)),
    _usages.map(lambda bits: x509.KeyUsage(*bits)),
    st.lists(_oids, min_size=1, max_size=5).map(x509.ExtendedKeyUsage),
    st.builds(x509.UnrecognizedExtension, _oids, st.binary(max_size=500)),
    st.just(x509.NameConstraints([x509.DNSName("evil")], None)),
    st.just(x509.OCSPNoCheck()),
    st.just(x509.SubjectKeyIdentifier(b"\1" * 20)),
    st.just(x509.AuthorityKeyIdentifier(b"\2" * 20, None, None)),
    st.just(
        x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, uri("http://169.254.169.254/"))]
        )
    ),
    st.just(x509.TLSFeature([x509.TLSFeatureType.status_request])),
)
_subjects = st.sampled_from(["", "lateen", "istio-system/lateen", "*", "x" * 64, OTHER])


@settings(max_examples=150, deadline=None)
@given(
    key=st.sampled_from([P256, P384, RSA2048]),
    subject=_subjects,
    extensions=st.lists(st.tuples(_extensions, st.booleans()), max_size=8, unique_by=lambda item: item[0].oid),
)
def test_assurance_10_random_requests(key: Any, subject: str, extensions: list[Any]) -> None:
    csr = make_csr(key, subject=subject, extensions=extensions, digest=hashes.SHA256())
    if len(csr) > MAX_CSR_BYTES:
        with pytest.raises(Refusal, match="at most"):
            issue(csr)
        return
    assert_profile(issue(csr), key)


GOOD = x509.load_pem_x509_csr(p256_csr(key=P256, subject="x")).public_bytes(serialization.Encoding.DER)


def pem(der: bytes, label: str = "CERTIFICATE REQUEST") -> bytes:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_assurance_10_changed_requests(changes: list[tuple[int, int]]) -> None:
    """Bytes of the DER itself, under its signature: refused, or the same key after all."""
    der = bytearray(GOOD)
    for place, value in changes:
        der[place] = value
    try:
        leaf = issue(pem(bytes(der)))
    except Refusal as refusal:
        assert refusal.code is StatusCode.INVALID_ARGUMENT  # noqa: PT017  # or else it is issued
        return
    assert_profile(leaf, P256)


# ---- chosen names


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(uri(OTHER), id="somebody-else"),
        pytest.param(uri(f"{ME}\0.evil.example"), id="zero-byte"),
        pytest.param(uri("spiffe://cluster.local/ns/default/sa/*"), id="wildcard"),
        pytest.param(uri(f"{ME}" + "a" * 5000), id="very-long"),
        pytest.param(uri(f"{ME}%00"), id="escaped-zero"),
        pytest.param(uri(str(ME).upper()), id="upper-case"),
        pytest.param(x509.DNSName("*"), id="any-host"),
        pytest.param(x509.DNSName("pilot.lateen.local"), id="the-control-plane"),
        pytest.param(x509.RFC822Name("root@cluster.local"), id="mail"),
        pytest.param(x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])), id="directory"),
        pytest.param(x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01x"), id="upn"),
    ],
)
def test_assurance_10_names(name: x509.GeneralName) -> None:
    csr = p256_csr(key=P256, extensions=[(x509.SubjectAlternativeName([name, uri(str(ME))]), True)])
    assert_profile(issue(csr), P256)


def test_assurance_10_a_name_twice_in_two_extensions() -> None:
    """Two extensions of one kind, which RFC 5280 forbids and parsers read in two ways."""
    one = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\x30\x03\x86\x01x")
    csr = p256_csr(
        key=P256, extensions=[(x509.SubjectAlternativeName([uri(OTHER)]), False), (one, False)]
    )  # the second is then renamed to be a second SAN, and the request signed anew
    der = x509.load_pem_x509_csr(csr).tbs_certrequest_bytes.replace(b"\x55\x1d\x63", b"\x55\x1d\x11")
    doubled = pem(signed(der))
    with pytest.raises(x509.DuplicateExtension):
        _ = x509.load_pem_x509_csr(doubled).extensions
    try:
        leaf = issue(doubled)
    except Refusal as refusal:
        assert refusal.code is StatusCode.INVALID_ARGUMENT  # noqa: PT017  # or else it is issued
        return
    assert_profile(leaf, P256)


def signed(tbs: bytes) -> bytes:
    """Return a request over any content, rightly signed by P256."""
    signature = P256.sign(tbs, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    return sequence(tbs + algorithm + b"\x03" + size(len(signature) + 1) + b"\0" + signature)


def size(length: int) -> bytes:
    if length < 128:
        return bytes([length])
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(digits)]) + digits


def sequence(content: bytes) -> bytes:
    return b"\x30" + size(len(content)) + content


# ---- keys and signatures


def rsa_csr(modulus: int, exponent: int) -> bytes:
    """Return a request for an RSA key that no library would make, signed by another: the key must fail first."""
    public = sequence(integer(modulus) + integer(exponent))
    spki = sequence(bytes.fromhex("300d06092a864886f70d0101010500") + b"\x03" + size(len(public) + 1) + b"\0" + public)
    tbs = sequence(integer(0) + sequence(b"") + spki + b"\xa0\0")
    signature = RSA2048.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
    algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")
    return pem(sequence(tbs + algorithm + b"\x03" + size(len(signature) + 1) + b"\0" + signature))


def integer(value: int) -> bytes:
    digits = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + size(len(digits)) + digits


MODULUS = RSA2048.public_key().public_numbers().n


@pytest.mark.parametrize(
    ("csr", "message"),
    [
        pytest.param(lambda: weak(rsa.generate_private_key(65537, 1024)), "RSA key of 1024 bits", id="rsa-1024"),
        pytest.param(lambda: weak(rsa.generate_private_key(3, 2048)), "exponent 0x3", id="exponent-3"),
        pytest.param(lambda: rsa_csr(MODULUS, 1), "(exponent|cannot be read)", id="exponent-1"),
        pytest.param(lambda: rsa_csr(MODULUS, 65536), "(exponent|cannot be read)", id="exponent-even"),
        pytest.param(lambda: rsa_csr(MODULUS, 2**200 + 1), "(exponent|cannot be read)", id="exponent-huge"),
        pytest.param(lambda: rsa_csr(MODULUS >> 1000, 65537), "RSA key of 1048 bits|cannot be read", id="modulus-cut"),
        pytest.param(lambda: rsa_csr(3 << 16400, 65537), "16402 bits|cannot be read|at most", id="modulus-huge"),
        pytest.param(lambda: weak(ec.generate_private_key(ec.SECP192R1())), "curve secp192r1", id="p192"),
        pytest.param(lambda: weak(ec.generate_private_key(ec.SECP224R1())), "curve secp224r1", id="p224"),
        pytest.param(lambda: weak(ec.generate_private_key(ec.SECP521R1())), "curve secp521r1", id="p521"),
        pytest.param(lambda: weak(ec.generate_private_key(ec.SECP256K1())), "curve secp256k1", id="k256"),
        pytest.param(lambda: weak(ec.generate_private_key(ec.BrainpoolP256R1())), "curve brainpool", id="brainpool"),
        pytest.param(lambda: make_csr(ed25519.Ed25519PrivateKey.generate()), "type Ed25519", id="ed25519"),
        pytest.param(lambda: make_csr(ed448.Ed448PrivateKey.generate()), "type Ed448", id="ed448"),
        pytest.param(lambda: weak(dsa.generate_private_key(2048)), "type DSA", id="dsa"),
        pytest.param(
            lambda: make_csr(P256, digest=hashes.SHA256(), key_of=ec.generate_private_key(ec.SECP256R1())),
            "does not match its key",
            id="key-of-another",
        ),
        pytest.param(lambda: pem(GOOD[:-1] + bytes([GOOD[-1] ^ 1])), "does not match its key", id="signature-changed"),
        pytest.param(lambda: make_csr(P256, digest=hashes.SHA224()), "hash sha224", id="short-hash"),
        pytest.param(lambda: make_csr(RSA2048, digest=hashes.SHA224()), "hash sha224", id="short-hash-rsa"),
    ],
)
def test_assurance_10_keys_and_signatures(csr: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message) as caught:
        issue(csr())
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


def weak(key: Any) -> bytes:
    return make_csr(key, digest=hashes.SHA256())


# ---- what is no request

CSR = p256_csr(key=P256)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(b"", "got 0 PEM blocks", id="empty"),
        pytest.param(GOOD, "PEM", id="der"),
        pytest.param(CSR * 2, "got 2 PEM blocks", id="two"),
        pytest.param(CSR * 40, "bytes, at most|got 40", id="many"),
        pytest.param(CSR + b"\n-----BEGIN CERTIFICATE-----\nx\n", "got 2 PEM blocks", id="and-a-certificate"),
        pytest.param(ROOT.public_bytes(serialization.Encoding.PEM), "cannot be read", id="a-certificate"),
        pytest.param(pem(GOOD, "CERTIFICATE"), "cannot be read", id="wrong-label"),
        pytest.param(pem(GOOD + b"\0"), "cannot be read", id="trailing-der"),
        pytest.param(pem(GOOD[:100]), "cannot be read", id="cut"),
        pytest.param(pem(sequence(b"")), "cannot be read", id="empty-sequence"),
        pytest.param(pem(b"\x30\x84\xff\xff\xff\xff"), "cannot be read", id="four-gigabytes-announced"),
        pytest.param(pem(b"\x30\x80" * 4000), "cannot be read", id="nested"),
        pytest.param(b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"A" * MAX_CSR_BYTES, "at most", id="giant"),
        pytest.param(CSR.replace(b"\n", b"\0"), "cannot be read|PEM", id="zero-bytes-for-lines"),
    ],
)
def test_assurance_10_what_is_no_request(text: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=message) as caught:
        issue(text)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_assurance_10_any_bytes_get_an_answer(data: bytes) -> None:
    for text in (data, pem(data)):
        with pytest.raises(Refusal) as caught:
            issue(text)
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
