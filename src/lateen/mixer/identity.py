"""Mixer's own certificate: the key is made here and stays here, the control plane signs for it.

The server asks for what is in force before each handshake, so a new one, or new roots, take no restart. Connections
that stand keep the one they were made with.
"""

from __future__ import annotations

import ssl
import time
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.wire.memory_tls import server_context
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
        self._served: tuple[tuple[str, str], ssl.SSLContext] | None = None  # chain and roots, and what was made of them

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

    def context(self) -> ssl.SSLContext:
        """Return a context that takes only clients whose certificates the mesh's roots verify."""
        held = self._held
        assert held is not None
        wanted = (held.chain, held.roots)
        if self._served is None or self._served[0] != wanted:
            context = server_context(held.chain.encode(), self._key)
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=held.roots)
            context.set_alpn_protocols(["h2"])
            context.num_tickets = 0  # each connection shows its certificate, and has it judged by today's roots
            self._served = (wanted, context)
        return self._served[1]
