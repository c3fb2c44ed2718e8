"""A workload's certificate for simulated clients, signed by the authority of the state folder."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.mesh import ACCOUNT
from lateen.citadel.authority import Authority
from lateen.settings import Settings
from lateen.wire.spiffe import SpiffeId

__all__ = ["credentials", "make_csr"]


def make_csr() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Return a new key and a request for it, as an agent makes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key, csr.public_bytes(serialization.Encoding.PEM)


def credentials(settings: Settings) -> Any:
    """Return what `grpc.aio.secure_channel` wants, for the identity that all workloads of the bench share."""
    authority = Authority.load_or_create(settings.ca_dir, "cluster.local")
    key, csr = make_csr()
    issued = authority.issue(csr, SpiffeId("cluster.local", "default", ACCOUNT), timedelta(hours=1))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_channel_credentials(
        root_certificates=issued.pems[-1], private_key=private, certificate_chain=b"".join(issued.pems[:-1])
    )
