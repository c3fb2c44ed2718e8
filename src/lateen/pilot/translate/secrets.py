"""Build the secrets that proxies fetch from Pilot.

In:  one `SecretInput`.
Out: one `envoy.extensions.transport_sockets.tls.v3.Secret`: a certificate with its key, or roots with a revocation
     list.
"""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from lateen.pilot.model.values import SecretInput

__all__ = ["build_secret"]


def build_secret(inp: SecretInput) -> Secret:
    """Return the secret under its name. Same input, same bytes."""
    if inp.roots:
        return Secret(
            name=inp.name,
            validation_context=CertificateValidationContext(
                trusted_ca=DataSource(inline_bytes=inp.roots),
                crl=DataSource(inline_bytes=inp.crl) if inp.crl else None,
            ),
        )
    return Secret(
        name=inp.name,
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(inline_bytes=inp.chain),
            private_key=DataSource(inline_bytes=inp.private_key),
            ocsp_staple=DataSource(inline_bytes=inp.staple) if inp.staple else None,
        ),
    )
