"""The control plane's own certificate, for the sockets on which it speaks mutual TLS.

The key lives in memory only and is made anew with each certificate. Renewal needs no timer: gRPC asks for the current
certificate before each handshake, and the one that is past half of its life is replaced right then (about 0.3 ms).
So it is right after a suspended night, too. Connections that stand keep the certificate they were made with.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import grpc
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.citadel.authority import Authority, Clock, IssuedChain, utc_now
from lateen.wire.join import JOIN_NAME
from lateen.wire.renewal import MAX_JITTER, renewal_time
from lateen.wire.spiffe import SpiffeId

__all__ = ["LIFETIME", "SERVER_NAME", "SERVER_NAMES", "Pair", "ServerIdentity", "own_identity"]

SERVER_NAME = "pilot.lateen.local"  # what clients check: a Unix socket's path is no name that a certificate can hold
SERVER_NAMES = (SERVER_NAME, JOIN_NAME)
LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Pair:
    """One certificate with its key."""

    issued: IssuedChain
    path: str  # by which way it was signed
    renew_at: datetime
    key_pem: bytes = field(repr=False)


def own_identity(trust_domain: str) -> SpiffeId:
    """Return who the control plane is."""
    return SpiffeId(trust_domain, "istio-system", "lateen")


class ServerIdentity:
    """Holds the control plane's certificate and hands it to gRPC servers. May be asked from any thread."""

    def __init__(
        self,
        authority: Authority,
        *,
        lifetime: timedelta = LIFETIME,
        clock: Clock = utc_now,
        draw: Callable[[], float] = lambda: random.uniform(-MAX_JITTER, MAX_JITTER),  # noqa: S311 not a secret
        log: Any = None,
    ) -> None:
        """Makes the first certificate. Raises `Unavailable` when the authority cannot sign."""
        self.spiffe_id = own_identity(authority.trust_domain)
        self._authority = authority
        self._lifetime = lifetime
        self._clock = clock
        self._draw = draw
        self._log = structlog.get_logger() if log is None else log
        self._renewing = threading.Lock()
        self._pair = self._make()

    def __repr__(self) -> str:
        return f"ServerIdentity({self.spiffe_id}, serial={self._pair.issued.serial})"

    @property
    def issued(self) -> IssuedChain:
        """The certificate now in use for new connections."""
        return self._pair.issued

    def renew_if_due(self) -> IssuedChain:
        """Return the certificate for a handshake that begins now.

        A new one past half of the old one's life, and when the authority signs by another way than it did.

        Does not raise: when the authority cannot sign, that is logged and the old one goes on being used.
        """
        with self._renewing:
            if self._clock() >= self._pair.renew_at or self._pair.path != self._authority.signing_path:
                try:
                    self._pair = self._make()
                except Exception as error:  # called from gRPC's C code, which would end the connection without a word
                    self._log.error("own certificate not renewed", identity=str(self.spiffe_id), reason=str(error))
                else:
                    self._log.info("own certificate renewed", identity=str(self.spiffe_id), serial=self.issued.serial)
            return self._pair.issued

    def material(self) -> tuple[bytes, bytes]:
        """Return chain (leaf first, no root) and key in PEM for a handshake that begins now."""
        self.renew_if_due()
        pair = self._pair
        return b"".join((pair.issued.leaf, *pair.issued.chain)), pair.key_pem

    def credentials(self, *, clients: bool = True) -> grpc.ServerCredentials:
        """Return credentials for a port that takes only clients whose certificate the mesh's roots verify.

        Which roots are believed is asked before each handshake, too. Without `clients`: for a port that asks clients
        for no certificate, and has to recognise them in another way.
        """
        in_use = (self._pair, self._authority.root_pem)

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal in_use
            self.renew_if_due()
            wanted = (self._pair, self._authority.root_pem)
            if in_use == wanted:
                return None  # no change: gRPC keeps its TLS context
            in_use = wanted
            return _configuration(*wanted)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(*in_use), changed, require_client_authentication=clients
        )

    def _make(self) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        path = self._authority.signing_path  # asked first: what is signed another way meanwhile is replaced once more
        issued = self._authority.issue_for_key(key.public_key(), self.spiffe_id, self._lifetime, SERVER_NAMES)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(issued, path, renewal_time(issued.not_before, issued.not_after, self._draw()), key_pem)


def _configuration(pair: Pair, roots: bytes) -> grpc.ServerCertificateConfiguration:
    chain = b"".join((pair.issued.leaf, *pair.issued.chain))
    return grpc.ssl_server_certificate_configuration([(pair.key_pem, chain)], root_certificates=roots)
