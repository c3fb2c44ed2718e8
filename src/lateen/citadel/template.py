"""What may be asked for, and what is signed: checks of CSRs, profiles of certificates. Pure.

In:  a CSR in PEM from a stranger; an identity that somebody else has established.
Out: the CSR's public key, which is all that is ever taken from a CSR; builders for the certificates that are signed.
Rules: the X.509-SVID specification, RFC 5280; key usage and times as Istio's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lateen.errors import BadInput
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import UNREADABLE

__all__ = [
    "BACKDATE",
    "MAX_CSR_BYTES",
    "ROOT_LIFETIME",
    "LeafRequest",
    "PublicKey",
    "Validity",
    "build_leaf",
    "build_root",
    "check_key",
    "check_leaf",
    "issuer_key_id",
    "leaf_validity",
    "parse_csr",
]

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

MAX_CSR_BYTES = 16 * 1024  # an RSA 8192 one with many extensions has about 4 kB
BACKDATE = timedelta(minutes=15)  # for clocks that differ by 10 minutes; Istio allows for 2
ROOT_LIFETIME = timedelta(days=3650)  # Istio's CITADEL_SELF_SIGNED_CA_CERT_TTL

_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192  # less is weak, and refused by Envoy; more costs seconds a handshake
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_CSR_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_WANTED_KEYS = f"P-256, P-384 or RSA of {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits"
_PEM_BLOCK = re.compile(rb"-----BEGIN [A-Z0-9 ]{1,64}-----")


@dataclass(frozen=True, slots=True)
class Validity:
    """First and last second in which a certificate holds; aware, whole seconds."""

    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafRequest:
    """All that one leaf depends on besides its signer."""

    public_key: PublicKey
    spiffe_id: SpiffeId
    validity: Validity
    serial: int  # 1..2**128-1
    dns_names: tuple[str, ...] = ()  # for the control plane's own certificate; workloads have none


def parse_csr(pem: bytes) -> PublicKey:
    """Return the public key of a CSR whose signature proves that its sender holds the private one.

    Nothing else in the CSR is looked at: its subject, names, CA flag, key usage and extensions mean nothing here.
    Raises `BadInput` with the reason.
    """
    if len(pem) > MAX_CSR_BYTES:
        raise BadInput(f"CSR of {len(pem)} bytes, at most {MAX_CSR_BYTES} wanted")
    blocks = len(_PEM_BLOCK.findall(pem))
    if blocks != 1:
        raise BadInput(f"one certificate request in PEM wanted, got {blocks} PEM blocks")
    try:
        csr = x509.load_pem_x509_csr(pem)
        public_key = csr.public_key()
        digest = csr.signature_hash_algorithm
    except UNREADABLE as error:
        raise BadInput(f"CSR cannot be read: {error}") from error
    # The key is checked first: its size and exponent bound what verifying a signature costs.
    key = check_key(public_key)
    if not isinstance(digest, _CSR_HASHES):
        name = digest.name if digest is not None else "none"
        raise BadInput(f"CSR is signed with hash {name}, wanted SHA-256, SHA-384 or SHA-512")
    try:
        signed = csr.is_signature_valid
    except UNREADABLE as error:
        raise BadInput(f"signature of CSR cannot be verified: {error}") from error
    if not signed:
        raise BadInput("signature of CSR does not match its key")
    return key


def check_key(key: object) -> PublicKey:
    """Return `key` if it is of a kind and size that may stand in a certificate. Raises `BadInput`."""
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return key
        case ec.EllipticCurvePublicKey():
            raise BadInput(f"key on curve {key.curve.name}, wanted {_WANTED_KEYS}")
        case rsa.RSAPublicKey():
            if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
                raise BadInput(f"RSA key of {key.key_size} bits, wanted {_WANTED_KEYS}")
            exponent = key.public_numbers().e
            if not 65537 <= exponent < 2**33:  # BoringSSL, which is in Envoy and gRPC, takes none above
                raise BadInput(f"RSA key with public exponent {exponent:#x}, wanted 0x10001 to 0x1ffffffff")
            return key
    # Ed25519 is sound, but Envoy takes no such certificate.
    kind = type(key).__name__.removeprefix("_").removesuffix("PublicKey")
    raise BadInput(f"key of type {kind}, wanted {_WANTED_KEYS}")


def leaf_validity(now: datetime, lifetime: timedelta, signer_not_after: datetime) -> Validity:
    """Return from when to when a leaf holds that is signed now; it never outlives its signer.

    It begins a quarter of an hour back, but at most a tenth of what it holds from now on: a leaf of ten seconds would
    else be past half of its life, when it is due for renewal, as soon as it is made.
    """
    not_after = min(now + lifetime, signer_not_after)
    backdate = min(BACKDATE, max(not_after - now, timedelta(0)) / 10)
    return Validity(_whole_seconds(now - backdate), _whole_seconds(not_after))


def build_leaf(request: LeafRequest, signer: x509.Certificate) -> x509.CertificateBuilder:
    """Return the X.509-SVID to be signed by the key of `signer`."""
    uri = x509.UniformResourceIdentifier(str(request.spiffe_id))
    names = [uri, *(x509.DNSName(name) for name in request.dns_names)]
    return (
        x509.CertificateBuilder()
        .serial_number(request.serial)
        .issuer_name(signer.subject)
        .subject_name(x509.Name([]))
        .not_valid_before(request.validity.not_before)
        .not_valid_after(request.validity.not_after)
        .public_key(request.public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # keyEncipherment also for elliptic curves, as Istio does: RFC 8813 would leave it out, no TLS library minds.
        .add_extension(_key_usage(digital_signature=True, key_encipherment=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=True)  # critical, as the subject is empty: RFC 5280
        .add_extension(_authority_key_identifier(signer), critical=False)
    )


def issuer_key_id(signer: x509.Certificate) -> bytes:
    """Return the authority key identifier of leaves that `signer` signs."""
    return _authority_key_identifier(signer).key_identifier or b""


def build_root(
    public_key: PublicKey, trust_domain: str, now: datetime, serial: int, lifetime: timedelta = ROOT_LIFETIME
) -> x509.CertificateBuilder:
    """Return a self-signed root to be signed by the key that belongs to `public_key`."""
    # Two roots of one trust domain must have different names, or a verifier may pick the wrong one for a leaf.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _fit(trust_domain)),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Lateen root {serial:032x}"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .issuer_name(subject)
        .subject_name(subject)
        .not_valid_before(_whole_seconds(now - BACKDATE))
        .not_valid_after(_whole_seconds(now + lifetime))
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def check_leaf(leaf: x509.Certificate, request: LeafRequest, signer: x509.Certificate) -> Iterator[str]:
    """Yield every way in which a signed leaf is not what was asked for.

    Whoever holds the signing key may be another program or another company's service; what comes from there is
    checked before a workload gets it. The signature itself is the caller's to verify.
    """
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [str(request.spiffe_id)]:
        yield f"URI names {uris}, wanted {request.spiffe_id} alone"
    others = len(names.value) - len(uris)
    if tuple(names.value.get_values_for_type(x509.DNSName)) != request.dns_names or others != len(request.dns_names):
        yield f"{others} names besides the URI, wanted {len(request.dns_names)}"
    if _is_authority(leaf):
        yield "it is an authority, wanted a leaf"
    yield from _check_usage(leaf)
    if leaf.public_key() != request.public_key:
        yield "its key is not the requested one"
    if leaf.issuer != signer.subject:
        yield f"its issuer is {leaf.issuer.rfc4514_string()!r}, wanted {signer.subject.rfc4514_string()!r}"
    latest = min(request.validity.not_after, signer.not_valid_after_utc)
    if leaf.not_valid_after_utc > latest:
        yield f"it holds until {leaf.not_valid_after_utc}, wanted {latest} at the latest"


def _is_authority(leaf: x509.Certificate) -> bool:
    try:
        return leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False  # RFC 5280, 4.2.1.9: without it the key may not verify certificates; Vault leaves it out


def _check_usage(leaf: x509.Certificate) -> Iterator[str]:
    """Yield what the X.509-SVID specification, section 4.3, forbids or demands of a leaf's key usage."""
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    if not usage.digital_signature:
        yield "its key may not make digital signatures, so no TLS"
    if usage.key_cert_sign or usage.crl_sign:
        yield "its key may sign certificates or lists, wanted a leaf's"


def _whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)  # X.509 has no fractions; rounding down never lengthens a life


def _fit(trust_domain: str) -> str:
    return trust_domain[:64]  # RFC 5280, appendix A: ub-organization-name


def _authority_key_identifier(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(check_key(signer.public_key()))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
