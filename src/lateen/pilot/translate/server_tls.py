"""TLS that a gateway's server ends.

In:  one `ServerTls`.
Out: a transport socket with `DownstreamTlsContext`, or with `QuicDownstreamTransport`. Certificates, keys and roots are
     named in it and come over SDS: of files from the proxy's agent, of Secrets from Pilot.
Rules: Istio `Gateway` `tls`, docs/api/translation.md "Gateways".
"""

from __future__ import annotations

from typing import Final

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2 import QuicDownstreamTransport
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.values import ServerTls
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.tls import MESH_CIPHERS, TLS_NAME, exact_names, identities_of, secret

__all__ = ["build_quic_socket", "build_server_socket"]

VERSIONS: Final = {
    "TLSV1_0": TlsParameters.TLSv1_0,
    "TLSV1_1": TlsParameters.TLSv1_1,
    "TLSV1_2": TlsParameters.TLSv1_2,
    "TLSV1_3": TlsParameters.TLSv1_3,
}


def build_server_socket(tls: ServerTls) -> TransportSocket:
    """Return the socket of a chain that ends TLS over TCP. Same input, same bytes."""
    return TransportSocket(name=TLS_NAME, typed_config=pack(_context(tls)))


def build_quic_socket(tls: ServerTls) -> TransportSocket:
    """Return the socket of a chain of HTTP/3, where TLS is part of the transport."""
    return TransportSocket(
        name="envoy.transport_sockets.quic",
        typed_config=pack(QuicDownstreamTransport(downstream_tls_context=_context(tls))),
    )


def _context(tls: ServerTls) -> DownstreamTlsContext:
    return DownstreamTlsContext(
        require_client_certificate=BoolValue(value=tls.require_client) if tls.roots else None,
        common_tls_context=CommonTlsContext(
            tls_params=_parameters(tls),
            alpn_protocols=tls.alpn,
            tls_certificate_sds_secret_configs=[secret(name) for name in tls.certificates],
            combined_validation_context=_validation(tls) if tls.roots else None,
        ),
    )


def _parameters(tls: ServerTls) -> TlsParameters:
    # Written out: a server's least version in Envoy is 1.2 as of today, and its greatest is what clients of an old
    # Envoy relied on. Mesh identities have the mesh's own list of ciphers.
    return TlsParameters(
        tls_minimum_protocol_version=VERSIONS.get(tls.min_version, TlsParameters.TLSv1_2),
        tls_maximum_protocol_version=VERSIONS.get(tls.max_version, TlsParameters.TLSv1_3),
        ecdh_curves=tls.ecdh_curves,
        cipher_suites=tls.cipher_suites or (MESH_CIPHERS if tls.trust_domains else ()),
    )


def _validation(tls: ServerTls) -> CommonTlsContext.CombinedCertificateValidationContext:
    names = exact_names(tls.subject_alt_names) or identities_of(tls.trust_domains)
    return CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=CertificateValidationContext(
            match_typed_subject_alt_names=names,
            verify_certificate_spki=tls.spki_pins,
            verify_certificate_hash=tls.hash_pins,
            trust_chain_verification=CertificateValidationContext.ACCEPT_UNTRUSTED if tls.accept_untrusted else 0,
        ),
        validation_context_sds_secret_config=secret(tls.roots),
    )
