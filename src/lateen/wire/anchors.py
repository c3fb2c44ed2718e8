"""Roots of other trust domains as trust anchors that can vouch for nothing else.

Envoy's check of SPIFFE identities picks the roots by the first URI of a certificate, and what comes after it (server
names that a client wants, principals of policies) is then satisfied by any name in it. So a root that is believed for
one trust domain could sign a certificate with a second name, of another one. X.509 has the remedy: name constraints in
the anchor, which every name of a certificate below it has to satisfy. An anchor's own signature is not verified by
anybody (RFC 5280, section 6.1: it is a name and a key), so it may carry what its owner never wrote.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lateen.errors import BadInput
from lateen.wire.svid import UNREADABLE

__all__ = ["confine"]

_ANY_DNS_NAME: Final = x509.DNSName("")  # the subtree of all
_DROPPED: Final = (x509.NameConstraints, x509.AuthorityKeyIdentifier)


@lru_cache(maxsize=256)  # asked again with each change of any root
def confine(root: str, trust_domain: str) -> str:
    """Return the anchor (PEM) for a root (PEM) that may vouch for identities of `trust_domain` only.

    Name and key are the root's, so the same certificates are below it. Every URI in them has to be of the trust domain,
    and there may be no DNS name: policies compare those, too, where Envoy finds no URI that fits. Same root, same
    bytes. Raises `BadInput`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(root.encode())
        constraints = _constraints(certificate, trust_domain)
        builder = (
            x509.CertificateBuilder()
            .serial_number(certificate.serial_number)
            .subject_name(certificate.subject)
            .issuer_name(certificate.subject)
            .not_valid_before(certificate.not_valid_before_utc)
            .not_valid_after(certificate.not_valid_after_utc)
            .public_key(certificate.public_key())
            .add_extension(constraints, critical=True)
        )
        for extension in certificate.extensions:
            if not isinstance(extension.value, _DROPPED):
                builder = builder.add_extension(extension.value, extension.critical)
        # Any key would do. One made of the root gives the same bytes each time, so Envoy is told nothing twice.
        anchor = builder.sign(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(root.encode()).digest()), None)
    except (UnsupportedAlgorithm, *UNREADABLE) as error:
        raise BadInput(f"root of trust domain {trust_domain!r} cannot be confined to it: {error}") from error
    return anchor.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _constraints(certificate: x509.Certificate, trust_domain: str) -> x509.NameConstraints:
    """Return what the root has itself, with what confines it."""
    permitted: list[x509.GeneralName] = []
    excluded: list[x509.GeneralName] = []
    try:
        own = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        own = None
    if own is not None:
        permitted += own.permitted_subtrees or []
        excluded += own.excluded_subtrees or []
    uris = [name.value for name in permitted if isinstance(name, x509.UniformResourceIdentifier)]
    if any(uri != trust_domain for uri in uris):  # one more that is permitted would widen them
        raise BadInput(f"root of trust domain {trust_domain!r} has name constraints on URIs of its own: {uris}")
    if not uris:
        permitted.append(x509.UniformResourceIdentifier(trust_domain))
    return x509.NameConstraints(permitted, [*excluded, _ANY_DNS_NAME])
