"""Hostile CSRs (assurance 10), and the profiles of what is signed."""

import contextlib
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fakes.certs import START, make_csr, p256_csr

from lateen.citadel.template import (
    MAX_CSR_BYTES,
    LeafRequest,
    Validity,
    build_leaf,
    build_root,
    check_key,
    check_leaf,
    leaf_validity,
    parse_csr,
)
from lateen.errors import BadInput
from lateen.wire.renewal import MAX_JITTER, renewal_time
from lateen.wire.spiffe import SpiffeId

P256 = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA2048 = rsa.generate_private_key(65537, 2048)
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = build_root(ROOT_KEY.public_key(), "cluster.local", START, 1).sign(ROOT_KEY, hashes.SHA256())
IDENTITY = SpiffeId("cluster.local", "default", "bookinfo-reviews")
REQUEST = LeafRequest(
    public_key=P256.public_key(),
    spiffe_id=IDENTITY,
    validity=Validity(START, START + timedelta(hours=24)),
    serial=2**128 - 1,
)


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        pytest.param(P256, hashes.SHA256(), id="p256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384(), id="p384"),
        pytest.param(RSA2048, hashes.SHA256(), id="rsa2048"),
        pytest.param(RSA2048, hashes.SHA512(), id="rsa2048-sha512"),
    ],
)
def test_honest_csr(key: ec.EllipticCurvePrivateKey, digest: hashes.HashAlgorithm) -> None:
    assert parse_csr(make_csr(key, digest=digest)) == key.public_key()


GOOD = make_csr(P256, digest=hashes.SHA256())


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        pytest.param(b"", "one certificate request in PEM wanted, got 0", id="empty"),
        pytest.param(b"\0\xff" * 100, "got 0 PEM blocks", id="binary"),
        pytest.param(GOOD + GOOD, "got 2 PEM blocks", id="two"),
        pytest.param(GOOD[:-60], "cannot be read", id="cut"),
        pytest.param(GOOD.replace(b"\nMI", b"\nAA", 1), "cannot be read", id="no-der"),
        pytest.param(GOOD.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"), "cannot be read", id="other-block"),
        pytest.param(GOOD + b"x" * MAX_CSR_BYTES, f"at most {MAX_CSR_BYTES} wanted", id="huge"),
        pytest.param(b"-----BEGIN " + b"A" * 8000, "got 0 PEM blocks", id="endless-label"),
        pytest.param(
            make_csr(P256, digest=hashes.SHA256(), key_of=OTHER), "does not match its key", id="key-of-somebody-else"
        ),
        pytest.param(
            make_csr(rsa.generate_private_key(65537, 1024), digest=hashes.SHA256()), "1024 bits", id="rsa1024"
        ),
        pytest.param(
            make_csr(rsa.generate_private_key(3, 2048), digest=hashes.SHA256()), "exponent 0x3", id="rsa-exponent-3"
        ),
        pytest.param(
            make_csr(ec.generate_private_key(ec.SECP521R1()), digest=hashes.SHA256()), "curve secp521r1", id="p521"
        ),
        pytest.param(
            make_csr(ec.generate_private_key(ec.SECP256K1()), digest=hashes.SHA256()), "curve secp256k1", id="k1"
        ),
        pytest.param(make_csr(ed25519.Ed25519PrivateKey.generate()), "type Ed25519", id="ed25519"),
        pytest.param(make_csr(P256, digest=hashes.SHA224()), "hash sha224", id="short-hash"),
    ],
)
def test_refused_csr(pem: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_csr(pem)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@example(46, 38)  # another version number: an error of the library's that shares no base with the others
def test_no_changed_byte_gets_another_key_in(position: int, change: int) -> None:
    damaged = bytearray(GOOD)
    damaged[position] ^= change
    with contextlib.suppress(BadInput):
        assert parse_csr(bytes(damaged)) == P256.public_key()  # changed where it does not matter: line ends, labels


@given(st.binary(max_size=400))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_csr(b"-----BEGIN CERTIFICATE REQUEST-----\n" + data + b"\n-----END CERTIFICATE REQUEST-----\n")


HOSTILE: list[tuple[x509.ExtensionType, bool]] = [
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (x509.KeyUsage(True, True, True, True, True, True, True, False, False), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), True),
    (
        x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier("spiffe://cluster.local/ns/istio-system/sa/lateen"),
                x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/bookinfo-reviews\0.evil"),
                x509.DNSName("*"),
                x509.DNSName("pilot.lateen.local"),
            ]
        ),
        True,
    ),
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00"), True),
    (x509.NameConstraints(permitted_subtrees=[x509.DNSName("x")], excluded_subtrees=None), True),
]


@pytest.mark.parametrize(
    "extensions",
    [pytest.param([item], id=type(item[0]).__name__) for item in HOSTILE] + [pytest.param(HOSTILE, id="all")],
)
def test_nothing_but_the_key_is_taken_from_a_csr(extensions: list[tuple[x509.ExtensionType, bool]]) -> None:
    pem = p256_csr(key=P256, subject="istio-system/lateen", extensions=extensions)
    honest = LeafRequest(
        public_key=parse_csr(GOOD), spiffe_id=IDENTITY, validity=REQUEST.validity, serial=REQUEST.serial
    )
    hostile = LeafRequest(
        public_key=parse_csr(pem), spiffe_id=IDENTITY, validity=REQUEST.validity, serial=REQUEST.serial
    )
    signed = [build_leaf(request, ROOT).sign(ROOT_KEY, hashes.SHA256()) for request in (honest, hostile)]
    assert signed[0].tbs_certificate_bytes == signed[1].tbs_certificate_bytes


def test_leaf_profile() -> None:
    leaf = build_leaf(REQUEST, ROOT).sign(ROOT_KEY, hashes.SHA256())
    leaf.verify_directly_issued_by(ROOT)
    assert leaf.subject == x509.Name([])
    assert leaf.serial_number == 2**128 - 1
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (START, START + timedelta(hours=24))
    found = {type(extension.value): (extension.critical, extension.value) for extension in leaf.extensions}
    assert found.pop(x509.SubjectAlternativeName) == (
        True,
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(IDENTITY))]),
    )
    assert found.pop(x509.BasicConstraints) == (True, x509.BasicConstraints(False, None))
    assert found.pop(x509.KeyUsage) == (
        True,
        x509.KeyUsage(True, False, True, False, False, False, False, False, False),
    )
    assert found.pop(x509.ExtendedKeyUsage) == (
        False,
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
    )
    root_id = ROOT.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert found.pop(x509.AuthorityKeyIdentifier) == (
        False,
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id),
    )
    assert not found


def test_root_profile() -> None:
    ROOT.verify_directly_issued_by(ROOT)
    assert ROOT.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "cluster.local"
    assert ROOT.not_valid_after_utc - START == timedelta(days=3650)
    found = {type(extension.value): (extension.critical, extension.value) for extension in ROOT.extensions}
    assert found.pop(x509.BasicConstraints) == (True, x509.BasicConstraints(True, None))
    assert found.pop(x509.KeyUsage) == (
        True,
        x509.KeyUsage(False, False, False, False, False, True, True, False, False),
    )
    assert found.pop(x509.SubjectKeyIdentifier)
    assert not found


def test_root_of_the_longest_trust_domain() -> None:
    build_root(ROOT_KEY.public_key(), "a" * 255, START, 1).sign(ROOT_KEY, hashes.SHA256())


YEAR = START + timedelta(days=365)


@pytest.mark.parametrize(
    ("lifetime", "signer_not_after", "before", "after"),
    [
        pytest.param(timedelta(hours=24), YEAR, -900, 86400, id="a-day"),
        pytest.param(timedelta(minutes=20), YEAR, -120, 1200, id="twenty-minutes"),
        pytest.param(timedelta(minutes=5), YEAR, -30, 300, id="five-minutes"),
        pytest.param(timedelta(seconds=10), YEAR, -1, 10, id="ten-seconds"),
        pytest.param(timedelta(seconds=1), YEAR, -1, 1, id="one-second"),
        pytest.param(timedelta(hours=24), START + timedelta(hours=1), -360, 3600, id="clamped-to-signer"),
    ],
)
def test_leaf_validity(lifetime: timedelta, signer_not_after: datetime, before: int, after: int) -> None:
    expected = Validity(START + timedelta(seconds=before), START + timedelta(seconds=after))
    assert leaf_validity(START, lifetime, signer_not_after) == expected


@given(st.integers(0, 999_999), st.integers(2, 7_776_000))
def test_a_fresh_leaf_is_never_due_for_renewal(microsecond: int, seconds: int) -> None:
    now = START.replace(microsecond=microsecond)
    validity = leaf_validity(now, timedelta(seconds=seconds), YEAR)
    assert validity.not_after <= now + timedelta(seconds=seconds)
    if seconds >= 5:
        assert renewal_time(validity.not_before, validity.not_after, -MAX_JITTER) > now


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"spiffe_id": SpiffeId("cluster.local", "x", "y")}, "URI names", id="other-identity"),
        pytest.param({"public_key": OTHER.public_key()}, "its key is not", id="other-key"),
        pytest.param({"dns_names": ("evil",)}, "1 names besides the URI", id="more-names"),
        pytest.param({"validity": Validity(START, START + timedelta(hours=25))}, "it holds until", id="longer"),
    ],
)
def test_what_a_signer_gives_back_is_checked(changes: dict[str, object], problem: str) -> None:
    other = build_leaf(replace(REQUEST, **changes), ROOT).sign(ROOT_KEY, hashes.SHA256())  # type: ignore[arg-type]
    problems = list(check_leaf(other, REQUEST, ROOT))
    assert len(problems) == 1
    assert problem in problems[0]
    assert list(check_leaf(build_leaf(REQUEST, ROOT).sign(ROOT_KEY, hashes.SHA256()), REQUEST, ROOT)) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"constraints": None}, "", id="no basic constraints"),  # as Vault makes them
        pytest.param({"constraints": True}, "it is an authority", id="an authority"),
        pytest.param(
            {"digital_signature": False, "key_agreement": True}, "may not make digital signatures", id="no TLS"
        ),
        pytest.param({"key_cert_sign": True}, "its key may sign certificates", id="a signer's usage"),
        pytest.param({"crl_sign": True}, "its key may sign certificates", id="a usage for revocation lists"),
    ],
)
def test_usage_of_what_a_signer_gives_back(changes: dict[str, bool | None], problem: str) -> None:
    leaf = build_leaf(REQUEST, ROOT).sign(ROOT_KEY, hashes.SHA256())
    usages = {
        "digital_signature": True,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
        **{name: value for name, value in changes.items() if name != "constraints"},
    }
    constraints = changes.get("constraints", False)
    extensions: list[x509.ExtensionType] = [x509.KeyUsage(**usages)]  # type: ignore[arg-type]
    extensions += [] if constraints is None else [x509.BasicConstraints(ca=constraints, path_length=None)]
    extensions += [
        extension.value
        for extension in leaf.extensions
        if not isinstance(extension.value, x509.KeyUsage | x509.BasicConstraints)
    ]
    builder = (
        x509.CertificateBuilder()
        .serial_number(leaf.serial_number)
        .issuer_name(leaf.issuer)
        .subject_name(leaf.subject)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .public_key(REQUEST.public_key)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    problems = "; ".join(check_leaf(builder.sign(ROOT_KEY, hashes.SHA256()), REQUEST, ROOT))
    assert problem in problems
    assert bool(problems) == bool(problem)


def test_key_check_names_the_type() -> None:
    with pytest.raises(BadInput, match="type Ed25519, wanted P-256, P-384 or RSA of 2048 to 8192 bits"):
        check_key(ed25519.Ed25519PrivateKey.generate().public_key())
    public = serialization.load_pem_public_key(
        P256.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert check_key(public) == P256.public_key()
