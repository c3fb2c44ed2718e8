"""The trust bundle: whose certificates are believed, by trust domain. Plain, frozen, the same for equal roots.

The control plane makes one and pushes it to every agent (`trust_messages`), which has its own Envoy check peers by it.
A root is believed for identities of its own trust domain only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from lateen.errors import BadInput
from lateen.wire.spiffe import check_trust_domain
from lateen.wire.svid import UNREADABLE

__all__ = ["MAX_DOMAINS", "MAX_ROOTS", "TrustBundle", "TrustUpdate", "normal_roots", "signing_path", "signing_path_of"]

MAX_DOMAINS = 100
MAX_ROOTS = 32  # of one trust domain: during a rotation there are two
MAX_ROOT_BYTES = 64 * 1024  # of one in PEM; an RSA 8192 one has 3 kB


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """Roots in PEM by trust domain. Build it with `of`, which brings roots into their one order and form."""

    roots: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, roots: Mapping[str, Iterable[str]]) -> TrustBundle:
        """Return the bundle of these roots; a trust domain without roots is left out. Raises `BadInput`."""
        if len(roots) > MAX_DOMAINS:
            raise BadInput(f"trust bundle of {len(roots)} trust domains, at most {MAX_DOMAINS} wanted")
        found: dict[str, tuple[str, ...]] = {}
        for domain in sorted(roots):
            check_trust_domain(domain)
            if pems := normal_roots(roots[domain], f"trust domain {domain!r}"):
                found[domain] = pems
        return cls(MappingProxyType(found))

    def with_domain(self, domain: str, roots: Iterable[str]) -> TrustBundle:
        """Return the bundle with the roots of one trust domain replaced; without it when there are none."""
        return TrustBundle.of({**self.roots, domain: tuple(roots)})

    def pem(self, domain: str) -> bytes:
        """Return all roots of one trust domain, one after the other; nothing when it is not known."""
        return "".join(self.roots.get(domain, ())).encode("ascii")

    @property
    def version(self) -> str:
        """A digest: equal for equal bundles, in every process."""
        digest = hashlib.sha256()
        for domain, pems in self.roots.items():
            for text in (domain, *pems):
                digest.update(len(text).to_bytes(4) + text.encode())
        return digest.hexdigest()[:20]

    def __hash__(self) -> int:
        return hash(tuple(self.roots.items()))


@dataclass(frozen=True, slots=True)
class TrustUpdate:
    """What agents are told: the bundle, and by which path certificates are issued now (`signing_path`)."""

    bundle: TrustBundle
    signing_path: str = ""  # "": not known; nobody renews because of it
    jwt_keys: tuple[tuple[str, str], ...] = ()  # (trust domain, what its JWT-SVIDs are verified by: a JWK set), sorted
    revoked: str = ""  # revocation lists in PEM, of every authority of the mesh's own trust domain; "": none are kept


def normal_roots(pems: Iterable[str], where: str) -> tuple[str, ...]:
    """Return each certificate once, in one spelling and order. An element may hold several. Raises `BadInput`."""
    found: dict[bytes, str] = {}
    for pem in pems:
        if len(pem) > MAX_ROOT_BYTES * MAX_ROOTS:
            raise BadInput(f"{where}: root of {len(pem)} characters, at most {MAX_ROOT_BYTES} wanted")
        try:
            for certificate in x509.load_pem_x509_certificates(pem.encode("ascii", "replace")):
                text = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
                if len(text) > MAX_ROOT_BYTES:
                    raise BadInput(f"{where}: root of {len(text)} bytes, at most {MAX_ROOT_BYTES} wanted")
                found[certificate.fingerprint(hashes.SHA256())] = text
        except UNREADABLE as error:
            raise BadInput(f"{where}: root that cannot be read as a certificate in PEM: {error}") from error
    if len(found) > MAX_ROOTS:
        raise BadInput(f"{where}: {len(found)} roots, at most {MAX_ROOTS} wanted")
    return tuple(found[key] for key in sorted(found))


def signing_path(issuer_key_id: bytes, intermediates: Iterable[x509.Certificate]) -> str:
    """Return a short name for the way from a leaf to its root: who signed the leaf, and all that stands above.

    Two leaves with the same path are verified by the same roots; a leaf with another path than the one in use now is
    to be replaced. `issuer_key_id` is the leaf's authority key identifier.
    """
    digest = hashlib.sha256(len(issuer_key_id).to_bytes(4) + issuer_key_id)
    for certificate in intermediates:
        digest.update(certificate.fingerprint(hashes.SHA256()))
    return digest.hexdigest()[:20]


def signing_path_of(chain_pem: bytes) -> str:
    """Return the signing path of a chain: leaf first, then intermediates, no root. Raises `BadInput`."""
    try:
        leaf, *intermediates = x509.load_pem_x509_certificates(chain_pem)
        identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        identifier = None
    except UNREADABLE as error:
        raise BadInput(f"no certificate chain in PEM: {error}") from error
    return signing_path(identifier or b"", intermediates)
