"""What an external authority is asked, and whether what it gave back may be handed out. Pure.

In:  a CSR from a stranger, before it goes to somebody else's program; certificates from there.
Out: whether the CSR carries the wanted names; every way in which the certificates are not what was asked for.
Rules: RFC 5280 (path validation), the X.509-SVID specification, and what Envoy takes.

A verifier of TLS will check the chain once more; this check is for what no verifier knows: who was to get it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lateen.citadel.template import BACKDATE, LeafRequest, PublicKey, check_key, check_leaf
from lateen.errors import BadInput
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import UNREADABLE

__all__ = [
    "MAX_CHAIN_BYTES",
    "MAX_CHAIN_CERTIFICATES",
    "check_external_intermediate",
    "check_external_leaf",
    "names_in_csr",
    "parse_chain",
    "parse_roots",
    "split_chain",
    "tolerance",
]

MAX_CHAIN_BYTES = 64 * 1024
MAX_CHAIN_CERTIFICATES = 8  # Envoy stops at a depth of its own; nobody has more than three

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")


def names_in_csr(pem: bytes, spiffe_id: SpiffeId, dns_names: tuple[str, ...] = ()) -> bool:
    """Return whether a CSR asks for exactly these names; False when it asks for none at all.

    Some authorities copy what a CSR says. So one that asks for anything else goes nowhere: raises `BadInput`. The CSR
    has been read before (`parse_csr`), so its signature holds.
    """
    try:
        csr = x509.load_pem_x509_csr(pem)
        extensions = list(csr.extensions)
        subject = list(csr.subject)
    except UNREADABLE as error:
        raise BadInput(f"CSR cannot be read: {error}") from error
    for attribute in subject:
        # Istio's agents name their trust domain as the organization; no proxy reads that.
        if attribute.oid != NameOID.ORGANIZATION_NAME:
            shown = attribute.rfc4514_string()[:80]
            raise BadInput(f"CSR asks for subject {shown!r}; an external authority could believe it, wanted none")
    found = False
    for extension in extensions:
        match extension.value:
            case x509.SubjectAlternativeName() as names:
                wanted = [x509.UniformResourceIdentifier(str(spiffe_id)), *map(x509.DNSName, dns_names)]
                if list(names) != wanted:
                    raise BadInput(
                        f"CSR asks for {_shown_names(names)}; an external authority could believe it, wanted "
                        f"{spiffe_id} alone or no names"
                    )
                found = True
            case x509.BasicConstraints() as constraints if not constraints.ca:
                continue
            case x509.KeyUsage() as usage if not (usage.key_cert_sign or usage.crl_sign):
                continue
            case x509.ExtendedKeyUsage() as usages if set(usages) <= _USAGES:
                continue
            case _:
                name = extension.oid._name if extension.oid._name != "Unknown OID" else extension.oid.dotted_string
                raise BadInput(f"CSR asks for {name}; an external authority could believe it, wanted names only")
    return found


def parse_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates of an answer, as many as it has and at least one. Raises `BadInput`."""
    if len(pem) > MAX_CHAIN_BYTES:
        raise BadInput(f"{len(pem)} bytes, at most {MAX_CHAIN_BYTES} wanted")
    kinds = _BLOCK.findall(pem)
    if not kinds or any(kind != b"CERTIFICATE" for kind in kinds) or len(kinds) > MAX_CHAIN_CERTIFICATES:
        # Their kinds are told, never their content: a confused authority may send a key.
        shown = ", ".join(kind.decode("ascii").lower() for kind in kinds[:10]) or "none"
        raise BadInput(f"1 to {MAX_CHAIN_CERTIFICATES} certificates in PEM wanted, got {shown}")
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except UNREADABLE as error:
        raise BadInput(f"certificates cannot be read: {error}") from error


def parse_roots(pem: bytes, now: datetime) -> tuple[x509.Certificate, ...]:
    """Return trust anchors, each once. Raises `BadInput` unless all are self-signed authorities that hold now."""
    roots = tuple(dict.fromkeys(parse_chain(pem)))
    for root in roots:
        try:
            problems = list(_check_issuer(root, 0, now))
        except UNREADABLE as error:
            problems = [str(error)]
        if not _issued(root, root):
            problems.append("it is not signed by its own key")
        if problems:
            raise BadInput(f"root {root.subject.rfc4514_string()!r}: {'; '.join(problems)}")
    return roots


def split_chain(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    """Return the first certificate and those between it and a root: the roots themselves, where given, are left out."""
    return chain[0], tuple(certificate for certificate in chain[1:] if certificate not in roots)


def check_external_leaf(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    request: LeafRequest,
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> Iterator[str]:
    """Yield every way in which a leaf from elsewhere may not be handed out; `request.validity` is what it may span."""
    try:
        signer = _issuer_of(leaf, between, roots)
        if signer is None:
            yield f"it leads to no trusted root: its issuer is {_last(leaf, between).issuer.rfc4514_string()!r}"
            return
        yield from check_leaf(leaf, request, signer)
        yield from _check_leaf_profile(leaf, now)
        yield from _check_path(leaf, between, roots, now)
    except x509.ExtensionNotFound as error:
        yield f"it has no {error.oid._name}"
    except UNREADABLE as error:
        yield f"it cannot be read: {error}"


def check_external_intermediate(
    certificate: x509.Certificate,
    between: Sequence[x509.Certificate],
    *,
    key: PublicKey,
    not_after: datetime,
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> Iterator[str]:
    """Yield every reason not to sign with an intermediate from elsewhere."""
    try:
        if certificate.public_key() != key:
            yield "its key is not the requested one"
        if certificate.not_valid_after_utc > not_after:
            yield f"it holds until {certificate.not_valid_after_utc}, wanted {not_after} at the latest"
        if certificate in roots or certificate.issuer == certificate.subject:
            yield "it is a root, wanted an intermediate"
        yield from _check_issuer(certificate, 0, now)
        yield from _check_path(certificate, between, roots, now)
    except UNREADABLE as error:
        yield f"it cannot be read: {error}"


def tolerance(lifetime: timedelta) -> timedelta:
    """Return by how much a certificate may outlive what was asked for: clocks differ, and authorities round up."""
    return max(timedelta(seconds=2), min(BACKDATE, lifetime / 10))


# ---------------------------------------------------------------- one certificate


def _check_leaf_profile(leaf: x509.Certificate, now: datetime) -> Iterator[str]:
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        yield f"it holds from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}, and it is {now:%H:%M:%S} now"
    if any(attribute.oid != NameOID.ORGANIZATION_NAME for attribute in leaf.subject):
        yield f"its subject is {leaf.subject.rfc4514_string()!r}, wanted none"
    usages = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    if usages != _USAGES:
        yield f"its extended key usage is {sorted(usage._name for usage in usages)}, wanted serverAuth and clientAuth"
    yield from _check_readable(leaf)


def _check_issuer(certificate: x509.Certificate, below: int, now: datetime) -> Iterator[str]:
    """Yield why a certificate may not sign, with `below` further authorities under it."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    if not constraints.ca:
        yield "it is no authority"
    elif constraints.path_length is not None and constraints.path_length < below:
        yield f"{below} authorities stand below it, and it allows {constraints.path_length}"
    try:
        if not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            yield "its key usage does not let it sign certificates"
    except x509.ExtensionNotFound:
        pass  # RFC 5280: usage is unrestricted then
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        yield f"it holds from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}"
    try:
        check_key(certificate.public_key())
    except BadInput as error:
        yield str(error)
    yield from _check_readable(certificate)


def _check_readable(certificate: x509.Certificate) -> Iterator[str]:
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        yield "it is not signed with SHA-256, SHA-384 or SHA-512"
    for extension in certificate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            yield f"it has the critical extension {extension.oid.dotted_string}, which no proxy knows"


# ---------------------------------------------------------------- the path


def _check_path(
    first: x509.Certificate, between: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
) -> Iterator[str]:
    """Yield why `first` cannot be traced, one certificate after the other, to a root."""
    child = first
    for below, issuer in enumerate(between):
        if not _issued(child, issuer):
            yield f"{_name(child)} is not signed by {_name(issuer)}, which follows it"
            return
        yield from (f"{_name(issuer)}: {problem}" for problem in _check_issuer(issuer, below, now))
        child = issuer
    root = next((root for root in roots if _issued(child, root)), None)
    if root is None:
        yield f"{_name(child)} is signed by none of the trusted roots"
        return
    yield from (f"root {_name(root)}: {problem}" for problem in _check_issuer(root, len(between), now))


def _issuer_of(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    if between:
        return between[0]
    return next((root for root in roots if _issued(leaf, root)), None)


def _issued(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _last(leaf: x509.Certificate, between: Sequence[x509.Certificate]) -> x509.Certificate:
    return between[-1] if between else leaf


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string()[:120] or f"serial {certificate.serial_number:x}")


def _shown_names(names: x509.SubjectAlternativeName) -> str:
    shown = [str(name.value)[:80] for name in list(names)[:4]]
    return ", ".join(repr(name) for name in shown) or "an empty list of names"
