"""networking.istio.io Gateway, as written: what gateway proxies listen for.

Shapes only; the rules beyond them are in `lateen.api.check_gateway`. Meaning and defaults: docs/api/Gateway.md.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.scalars import Mapping, UInt32

__all__ = ["Gateway", "Port", "Server", "ServerTLSSettings", "TLSCertificate"]

TlsVersion = Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]


class Port(Spec, frozen=True, kw_only=True):
    """A port of a Gateway's server; `SidecarPort` is the one of Sidecars."""

    number: UInt32 = 0  # 0 only with a Unix bind
    protocol: str
    name: str
    target_port: UInt32 = 0  # deprecated, refused


class TLSCertificate(Spec, frozen=True, kw_only=True):
    """Paths of one certificate and its key."""

    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""


class ServerTLSSettings(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("credential_names", "tls_certificates"), ("credential_names", "credential_name"))

    https_redirect: bool = False
    mode: Literal["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"] = (
        "PASSTHROUGH"
    )
    server_certificate: str = ""  # this and the next three are paths
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    credential_names: Annotated[tuple[str, ...], Meta(max_length=2)] = ()  # rule GW-27
    ca_cert_credential_name: str = ""
    tls_certificates: tuple[TLSCertificate, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: TlsVersion = "TLS_AUTO"
    max_protocol_version: TlsVersion = "TLS_AUTO"
    cipher_suites: tuple[str, ...] = ()
    insecure_skip_verify: bool | None = None


class Server(Spec, frozen=True, kw_only=True):
    port: Port
    bind: str = ""  # IP, unix:///path, unix://@name
    hosts: tuple[str, ...]  # `[namespace/]name`
    tls: ServerTLSSettings | None = None
    name: str = ""
    default_endpoint: str = ""  # not implemented by anybody


class Gateway(Spec, frozen=True, kw_only=True):
    selector: Mapping[str, str] = EMPTY  # of gateway workloads, in all namespaces; none: every gateway
    servers: tuple[Server, ...] = ()
