"""Read what people and programs want to know of an X.509-SVID: whose it is, which one, until when.

Rules: the X.509-SVID specification; a leaf has exactly one URI SAN, and that is the SPIFFE ID.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from lateen.errors import BadInput
from lateen.wire.local import CertificateInfo
from lateen.wire.spiffe import SpiffeId, parse_spiffe_id

__all__ = ["UNREADABLE", "CertificateSummary", "read_certificate", "spiffe_id_of"]

# What `cryptography` raises on bytes from a stranger: these have no common base below Exception.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSummary:
    """What one certificate says. Times are aware, in UTC, whole seconds."""

    spiffe_id: SpiffeId | None  # None: no SVID of a workload, as every authority's own certificate
    serial: str  # hexadecimal, lower case
    not_before: datetime
    not_after: datetime

    def info(self) -> CertificateInfo:
        """Return it as the message that agents, control plane and CLI exchange."""
        return CertificateInfo(
            serial=self.serial, not_before=_rfc3339(self.not_before), not_after=_rfc3339(self.not_after)
        )


def read_certificate(pem: bytes) -> CertificateSummary:
    """Return what the first certificate in `pem` says (a chain's first is its leaf). Raises `BadInput`."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        return CertificateSummary(
            spiffe_id=spiffe_id_of(certificate),
            serial=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )
    except UNREADABLE as error:
        raise BadInput(f"no certificate in PEM that can be read: {error}") from error


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeId | None:
    """Return the one workload identity in the URI SANs, None when there is none, another kind of URI, or several."""
    try:
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = sans.get_values_for_type(x509.UniformResourceIdentifier)
    except UNREADABLE:
        return None
    if len(uris) != 1:
        return None
    try:
        return parse_spiffe_id(uris[0])
    except BadInput:
        return None


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
