"""How a server of a Gateway ends TLS: the API's words as one value, with every certificate and root named as a secret.

Rules: docs/api/Gateway.md "ServerTLSSettings". What Envoy would refuse is left out here, as Istio leaves it out.
"""

from __future__ import annotations

import re
from typing import Any, Final

from lateen.api.check_server_tls import CIPHERS
from lateen.api.protocol import Protocol
from lateen.pilot.model.secret_names import (
    MESH_ROOTS,
    OWN_CERTIFICATE,
    OWN_ROOTS,
    file_certificate,
    file_roots,
    roots_name,
    secret_resource_name,
)
from lateen.pilot.model.values import NO_MESH_TLS, MeshTls, ServerTls

__all__ = ["build_server_tls", "mesh_tls_of"]

HTTP: Final = ("h2", "http/1.1")
HTTP3: Final = ("h3",)
MESH_TCP: Final = ("istio-peer-exchange", "h2", "http/1.1")  # what mesh clients offer beside it is never negotiated
MAX_CERTIFICATES: Final = 2  # GW-25
_COLONS: Final = re.compile("[: ]")


def build_server_tls(
    tls: Any,
    protocol: Protocol,
    trust_domains: tuple[str, ...],
    *,
    defaults: Any = None,
    mesh_tls: MeshTls = NO_MESH_TLS,
    quic: bool = False,
) -> ServerTls:
    """Return how a server with these settings ends TLS. Only for modes that end it.

    What the server leaves open the mesh says: `mesh_tls` for its own identities, `defaults` (api TLSConfig) for others.
    """
    mesh = tls.mode == "ISTIO_MUTUAL"
    asks = tls.mode in ("MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL")
    defaults = None if mesh else defaults
    return ServerTls(
        certificates=(OWN_CERTIFICATE,) if mesh else _certificates(tls),
        roots=(_mesh_roots(tls) if mesh else _roots(tls)) if asks else "",
        require_client=tls.mode in ("MUTUAL", "ISTIO_MUTUAL"),
        accept_untrusted=bool(tls.insecure_skip_verify) and asks and not mesh,
        trust_domains=trust_domains if mesh else (),
        subject_alt_names=tuple(sorted(tls.subject_alt_names)) if asks else (),
        spki_pins=tls.verify_certificate_spki if asks else (),
        hash_pins=tuple(_COLONS.sub("", pin).lower() for pin in tls.verify_certificate_hash) if asks else (),
        min_version=_least(tls, mesh_tls.min_version if mesh else getattr(defaults, "min_protocol_version", None)),
        max_version=tls.max_protocol_version,
        cipher_suites=_ciphers(
            tls.cipher_suites or (mesh_tls.cipher_suites if mesh else getattr(defaults, "cipher_suites", ()))
        ),
        ecdh_curves=defaults.ecdh_curves if defaults is not None else (),
        alpn=_alpn(protocol, mesh=mesh, quic=quic),
    )


def mesh_tls_of(written: Any) -> MeshTls:
    """Return what MeshConfig's `meshMTLS` (api TLSConfig | None) says."""
    if written is None:
        return NO_MESH_TLS
    return MeshTls(
        min_version=str(written.min_protocol_version or "TLS_AUTO"), cipher_suites=_ciphers(written.cipher_suites)
    )


def _least(tls: Any, default: str | None) -> str:
    least = tls.min_protocol_version
    return str(default) if least == "TLS_AUTO" and default is not None else str(least)


def _alpn(protocol: Protocol, *, mesh: bool, quic: bool) -> tuple[str, ...]:
    if quic:
        return HTTP3
    if protocol is Protocol.HTTPS:
        return HTTP
    return MESH_TCP if mesh else ()


def _certificates(tls: Any) -> tuple[str, ...]:
    if tls.credential_name:
        return (secret_resource_name(tls.credential_name),)
    if tls.credential_names:
        return tuple(dict.fromkeys(secret_resource_name(name) for name in tls.credential_names))
    if tls.tls_certificates:
        pairs = tls.tls_certificates[:MAX_CERTIFICATES]
        return tuple(dict.fromkeys(file_certificate(pair.server_certificate, pair.private_key) for pair in pairs))
    return (file_certificate(tls.server_certificate, tls.private_key),)


def _mesh_roots(tls: Any) -> str:
    # Envoy's check of several trust domains passes over pins; so a server that pins takes the mesh's own clients only.
    return MESH_ROOTS if tls.verify_certificate_spki or tls.verify_certificate_hash else OWN_ROOTS


def _roots(tls: Any) -> str:
    if tls.ca_cert_credential_name:
        return roots_name(tls.ca_cert_credential_name)
    credential = tls.credential_name or next(iter(tls.credential_names), "")
    if credential:
        return roots_name(credential)
    return file_roots(tls.ca_certificates, tls.ca_crl)


def _ciphers(written: tuple[str, ...]) -> tuple[str, ...]:
    """Return the suites that are known, each once. `ALL` and operators are BoringSSL's own words, and pass."""
    known = (suite for suite in written if suite in CIPHERS or suite == "ALL" or (suite and not suite[0].isalnum()))
    return tuple(dict.fromkeys(known))
