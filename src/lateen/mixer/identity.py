"""Mixer's own certificate: the key is made here and stays here, the control plane signs for it.

gRPC asks for the certificate in force before each handshake, so a new one, or new roots, take no restart. Connections
that stand keep the one they were made with.
"""

from __future__ import annotations

import time
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.wire.mixer import Identity, Wish

__all__ = ["OwnIdentity"]

RETRY_SECONDS: Final = 5.0  # before a wish that got no answer is sent again

log = structlog.get_logger(__name__)


class OwnIdentity:
    """Holds key and certificate. Use: send `wish()` when `due()`, give each answer to `take`."""

    def __init__(self) -> None:
        self._wanted: tuple[bytes, str] | None = None  # key, public key
        self._wanted_at = 0.0
        self._key = b""
        self._public = ""
        self._held: Identity | None = None
        self._served: tuple[str, str] | None = None  # chain and roots that gRPC was given

    @property
    def held(self) -> Identity | None:
        return self._held

    def due(self) -> bool:
        """Tell whether a certificate is to be asked for now."""
        if self._wanted is not None:
            return time.monotonic() - self._wanted_at > RETRY_SECONDS
        return self._held is None or time.time() >= self._held.renew_at

    def wish(self) -> Wish:
        """Return what to ask for: a certificate for a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._wanted, self._wanted_at = (pem, public.decode()), time.monotonic()
        return Wish(csr=csr.public_bytes(serialization.Encoding.PEM).decode())

    def take(self, identity: Identity) -> bool:
        """Take an answer: a certificate that was wished for, or other roots for the one in use. False: neither."""
        if self._wanted is not None and identity.public_key == self._wanted[1]:
            self._key, self._public = self._wanted
            self._wanted = None
        elif identity.public_key != self._public:
            log.warning("certificate for another key")
            return False
        self._held = identity
        return True

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a port that takes only clients whose certificates the mesh's roots verify."""
        first = self._configuration()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            held = self._held
            if held is None or self._served == (held.chain, held.roots):
                return None
            return self._configuration()

        return grpc.dynamic_ssl_server_credentials(first, changed, require_client_authentication=True)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        held = self._held
        assert held is not None
        self._served = (held.chain, held.roots)
        return grpc.ssl_server_certificate_configuration(
            [(self._key, held.chain.encode())], root_certificates=held.roots.encode()
        )
