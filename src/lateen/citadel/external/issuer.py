"""Certificates of workloads that an external authority signs, one order each.

In:  a CSR, the identity that its sender was found to have, a lifetime. Out: the chain, checked.
Takes the place of `Authority` behind the signing service; waiting for it holds up nobody but the one who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from lateen.citadel.authority import Clock, IssuedChain, utc_now
from lateen.citadel.external.check import check_external_leaf, names_in_csr, parse_chain, split_chain, tolerance
from lateen.citadel.external.guard import Guard
from lateen.citadel.external.interface import Order
from lateen.citadel.external.roots import pem_of_all
from lateen.citadel.store import PrivateKey
from lateen.citadel.template import LeafRequest, PublicKey, Validity, parse_csr
from lateen.errors import BadInput, Refused
from lateen.wire.spiffe import SpiffeId

__all__ = ["ExternalIssuer", "own_csr"]


class ExternalIssuer:
    """Issues certificates in one trust domain. For one event loop. `issued` counts them."""

    def __init__(
        self, guard: Guard, trust_domain: str, roots: Sequence[x509.Certificate], clock: Clock = utc_now
    ) -> None:
        self.trust_domain = trust_domain
        self.issued = 0
        self._guard = guard
        self.roots = tuple(roots)
        self._clock = clock
        self._root_pem = pem_of_all(self.roots)

    async def issue(
        self, csr_pem: bytes, spiffe_id: SpiffeId, lifetime: timedelta, dns_names: tuple[str, ...] = ()
    ) -> IssuedChain:
        """Have a certificate signed for the key in `csr_pem` and exactly these names.

        Raises `BadInput` (the CSR is wrong, or asks for other names), `Refused` (another trust domain), `Unavailable`
        (the authority does not answer, says no, or gave what may not be handed out).
        """
        if spiffe_id.trust_domain != self.trust_domain:
            raise Refused(f"identity {spiffe_id} is not of trust domain {self.trust_domain!r}")
        if lifetime < timedelta(seconds=1):
            raise BadInput(f"lifetime of {lifetime}, at least one second wanted")
        key = parse_csr(csr_pem)
        order = Order(
            profile="leaf",
            csr=csr_pem,
            lifetime=timedelta(seconds=int(lifetime.total_seconds())),
            spiffe_id=spiffe_id,
            dns_names=dns_names,
            names_in_csr=names_in_csr(csr_pem, spiffe_id, dns_names),
        )
        pem = await self._guard.sign(order)
        issued = self._checked(pem, key, order, spiffe_id)
        self.issued += 1
        return issued

    def _checked(self, pem: bytes, key: PublicKey, order: Order, spiffe_id: SpiffeId) -> IssuedChain:
        now = self._clock()
        try:
            leaf, between = split_chain(parse_chain(pem), self.roots)
        except BadInput as error:
            raise self._guard.lied(str(error)) from error
        request = LeafRequest(
            public_key=key,
            spiffe_id=spiffe_id,
            validity=Validity(now, now + order.lifetime + tolerance(order.lifetime)),
            serial=1,  # the authority's choice
            dns_names=order.dns_names,
        )
        problems = list(check_external_leaf(leaf, between, request, self.roots, now))
        if problems:
            raise self._guard.lied("; ".join(problems))
        return self.chain_of(leaf, between)

    def chain_of(self, leaf: x509.Certificate, between: Sequence[x509.Certificate]) -> IssuedChain:
        """Return checked certificates as they are handed out."""
        return IssuedChain(
            leaf=_pem(leaf),
            chain=tuple(_pem(certificate) for certificate in between),
            root=self._root_pem,
            serial=f"{leaf.serial_number:x}",
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )


def own_csr(key: PrivateKey, spiffe_id: SpiffeId | None = None, dns_names: tuple[str, ...] = ()) -> bytes:
    """Return a CSR in PEM for a key of this process; without an identity it has no names, as for an intermediate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if spiffe_id is not None:
        names = [x509.UniformResourceIdentifier(str(spiffe_id)), *map(x509.DNSName, dns_names)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
