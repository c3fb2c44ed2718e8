"""TLS towards and from the mesh and the world outside.

In:  server names, accepted identities, ALPN lists, and what a DestinationRule says.
Out: transport sockets with `UpstreamTlsContext` or `DownstreamTlsContext`. No key and no certificate is ever in them:
     they name secrets, which the proxy's own agent serves over SDS (`default`, `ROOTCA`, `file-...`) or Pilot over ADS.
Rules: Istio's secret names and validation, docs/api/translation.md "TLS".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.config_source_pb2 import ApiConfigSource, ApiVersion, ConfigSource
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    CommonTlsContext,
    DownstreamTlsContext,
    UpstreamTlsContext,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.secret_names import (
    MESH_ROOTS,
    OWN_CERTIFICATE,
    OWN_ROOTS,
    file_certificate,
    file_roots,
    roots_name,
    secret_resource_name,
)
from lateen.pilot.model.values import NO_MESH_TLS, MeshTls, UpstreamTls
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import ADS, ZERO, is_ip

__all__ = [
    "ALL_ISTIO_ALPN",
    "HTTP_ALPN",
    "MESH_CIPHERS",
    "MESH_H1_ALPN",
    "MESH_H2_ALPN",
    "MESH_HTTP_ALPN",
    "MESH_TCP_ALPN",
    "RAW_BUFFER",
    "SDS_CLUSTER",
    "SERVER_ALPN",
    "TCP_ALPN",
    "TLS_NAME",
    "build_mesh_downstream",
    "build_mesh_upstream",
    "build_upstream",
    "exact_names",
    "identities_of",
    "secret",
]

SDS_CLUSTER: Final = "sds-grpc"  # static cluster of the bootstrap: the agent's Unix socket

# What mesh clients offer, so that a server tells by the handshake alone what will follow. Only ever compared: a server
# negotiates `h2` or `http/1.1`, or nothing. `istio-peer-exchange` is offered and negotiated by nobody here, since stock
# Envoy cannot speak what it announces; servers still recognise it, so that Istio's own sidecars reach the right chain.
MESH_H1_ALPN: Final = ("istio-http/1.1", "istio", "http/1.1")
MESH_H2_ALPN: Final = ("istio-h2", "istio", "h2")
MESH_TCP_ALPN: Final = ("istio",)
MESH_HTTP_ALPN: Final = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
TCP_ALPN: Final = ("istio-peer-exchange", "istio")
ALL_ISTIO_ALPN: Final = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")
HTTP_ALPN: Final = ("http/1.0", "http/1.1", "h2c")  # what the HTTP inspector reports of plain text
SERVER_ALPN: Final = ("h2", "http/1.1")

MESH_CIPHERS: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)
TRUE: Final = BoolValue(value=True)
TLS_NAME: Final = "envoy.transport_sockets.tls"
RAW_BUFFER: Final = TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=pack(RawBuffer()))


def _agent_source(*, patient: bool) -> ConfigSource:
    return ConfigSource(
        api_config_source=ApiConfigSource(
            api_type=ApiConfigSource.GRPC,
            transport_api_version=ApiVersion.V3,
            set_node_on_first_message_only=True,
            grpc_services=[GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=SDS_CLUSTER))],
        ),
        resource_api_version=ApiVersion.V3,
        initial_fetch_timeout=ZERO if patient else None,
    )


# Without its identity a proxy must carry nothing, however long that takes; a missing file must not stop all the rest.
_AGENT: Final = _agent_source(patient=True)
_AGENT_FILES: Final = _agent_source(patient=False)
_IDENTITY: Final = SdsSecretConfig(name="default", sds_config=_AGENT)
_BUNDLE: Final = SdsSecretConfig(name="ROOTCA", sds_config=_AGENT)
_UPSTREAM_PARAMS: Final = TlsParameters(
    tls_minimum_protocol_version=TlsParameters.TLSv1_2, tls_maximum_protocol_version=TlsParameters.TLSv1_3
)


def secret(name: str) -> SdsSecretConfig:
    """Return how a proxy fetches a secret: its own identity and files from its agent, all others over ADS."""
    if name in (OWN_CERTIFICATE, OWN_ROOTS, MESH_ROOTS):
        return SdsSecretConfig(name=name, sds_config=_AGENT)
    return SdsSecretConfig(name=name, sds_config=_AGENT_FILES if name.startswith("file-") else ADS)


def build_mesh_upstream(
    *, sni: str, sans: Sequence[str], alpn: Sequence[str], domains: Sequence[str] = ()
) -> TransportSocket:
    """Return mutual TLS towards a mesh service with the workload's identity.

    `sans`: the server's certificate must carry one of them; () takes any of the trust domains `domains`, and if that is
    () too, any that the trust bundle vouches for.
    """
    return _upstream_socket(
        UpstreamTlsContext(
            sni=sni,
            common_tls_context=CommonTlsContext(
                tls_params=_UPSTREAM_PARAMS,
                alpn_protocols=alpn,
                tls_certificate_sds_secret_configs=[_IDENTITY],
                combined_validation_context=_combined(_BUNDLE, exact_names(sans) or identities_of(domains)),
            ),
        )
    )


def build_upstream(
    tls: UpstreamTls,
    *,
    default_sni: str,
    sans: Sequence[str],
    alpn: Sequence[str],
    domains: Sequence[str] = (),
    defaults: Any = None,
) -> TransportSocket:
    """Return TLS as a DestinationRule asks for it (`tls.mode` SIMPLE, MUTUAL or ISTIO_MUTUAL).

    `alpn` is for ISTIO_MUTUAL; towards others only HTTP/2 is announced, by the caller giving `("h2",)`.
    `sans`, and for ISTIO_MUTUAL `domains`, apply where the rule names none. `defaults` are the mesh's (api TLSConfig),
    for SIMPLE and MUTUAL.
    """
    wanted = tls.subject_alt_names or tuple(sans)
    if tls.mode == "ISTIO_MUTUAL":
        return build_mesh_upstream(sni=tls.sni or default_sni, sans=wanted, domains=domains, alpn=alpn)
    return _upstream_socket(
        UpstreamTlsContext(
            sni=tls.sni,
            common_tls_context=CommonTlsContext(
                tls_params=_params(defaults),
                alpn_protocols=alpn,
                tls_certificate_sds_secret_configs=_client_certificates(tls),
                combined_validation_context=None if tls.insecure_skip_verify else _validation(_roots_of(tls), wanted),
            ),
        )
    )


def _params(defaults: Any) -> TlsParameters:
    if defaults is None:
        return _UPSTREAM_PARAMS
    only_newest = defaults.min_protocol_version == "TLSV1_3"
    return TlsParameters(
        tls_minimum_protocol_version=TlsParameters.TLSv1_3 if only_newest else TlsParameters.TLSv1_2,
        tls_maximum_protocol_version=TlsParameters.TLSv1_3,
        cipher_suites=defaults.cipher_suites,
        ecdh_curves=defaults.ecdh_curves,
    )


def build_mesh_downstream(
    *, trust_domains: Sequence[str], mesh_tls: MeshTls = NO_MESH_TLS, alpn: Sequence[str] = SERVER_ALPN
) -> TransportSocket:
    """Return mutual TLS as a server: clients must show an identity of one of `trust_domains`."""
    return _downstream_socket(
        DownstreamTlsContext(
            require_client_certificate=TRUE,
            common_tls_context=CommonTlsContext(
                tls_params=_mesh_params(mesh_tls),
                alpn_protocols=alpn,
                tls_certificate_sds_secret_configs=[_IDENTITY],
                combined_validation_context=_combined(_BUNDLE, identities_of(trust_domains)),
            ),
        )
    )


def _mesh_params(mesh_tls: MeshTls) -> TlsParameters:
    newest = mesh_tls.min_version == "TLSV1_3"
    return TlsParameters(
        tls_minimum_protocol_version=TlsParameters.TLSv1_3 if newest else TlsParameters.TLSv1_2,
        tls_maximum_protocol_version=TlsParameters.TLSv1_3,
        cipher_suites=mesh_tls.cipher_suites or MESH_CIPHERS,
    )


def _roots_of(tls: UpstreamTls) -> str:
    if tls.credential_name:
        return roots_name(tls.credential_name)
    return file_roots(tls.ca_certificates, tls.ca_crl)


def _client_certificates(tls: UpstreamTls) -> list[SdsSecretConfig]:
    if tls.mode != "MUTUAL":
        return []
    if tls.credential_name:
        return [secret(secret_resource_name(tls.credential_name))]
    return [secret(file_certificate(tls.client_certificate, tls.private_key))]


def _validation(roots: str, sans: Sequence[str]) -> CommonTlsContext.CombinedCertificateValidationContext:
    return _combined(secret(roots), exact_names(sans))


def _combined(
    roots: SdsSecretConfig, sans: Sequence[SubjectAltNameMatcher]
) -> CommonTlsContext.CombinedCertificateValidationContext:
    return CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=sans),
        validation_context_sds_secret_config=roots,
    )


def exact_names(sans: Sequence[str]) -> list[SubjectAltNameMatcher]:
    """Return matchers of which a peer's certificate must satisfy one."""
    return [SubjectAltNameMatcher(san_type=_san_type(san), matcher=StringMatcher(exact=san)) for san in sans]


def identities_of(trust_domains: Sequence[str]) -> list[SubjectAltNameMatcher]:
    """Return matchers of which a peer's certificate must satisfy one: the identities of these trust domains."""
    return [
        SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=StringMatcher(prefix=f"spiffe://{domain}/"))
        for domain in trust_domains
    ]


def _san_type(san: str) -> int:
    # The API does not say which kind of name it means; Envoy wants to know.
    if "://" in san:
        return int(SubjectAltNameMatcher.URI)
    return int(SubjectAltNameMatcher.IP_ADDRESS if is_ip(san) else SubjectAltNameMatcher.DNS)


def _upstream_socket(context: UpstreamTlsContext) -> TransportSocket:
    return TransportSocket(name=TLS_NAME, typed_config=pack(context))


def _downstream_socket(context: DownstreamTlsContext) -> TransportSocket:
    return TransportSocket(name=TLS_NAME, typed_config=pack(context))
