"""The messages that an agent speaks: discovery, secrets, name tables, certificates. Plain values in and out; pure.

Field numbers: envoy/service/discovery/v3/discovery.proto, envoy/config/core/v3/base.proto,
envoy/extensions/transport_sockets/tls/v3/{secret,common}.proto, and Istio's in `lateen.wire.ca` and `lateen.wire.nds`,
which are not imported because they bring the protobuf library (`protowire`). Tests hold each to the real message. So is
the trust bundle's, in `lateen.wire.trust_messages`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from lateen.agent.names import Entry
from lateen.agent.protowire import embedded, encode_struct, messages, number, parse_fields, string, text, texts
from lateen.agent.spec import Node
from lateen.wire.anchors import confine
from lateen.wire.trust import TrustBundle, TrustUpdate

__all__ = [
    "CREATE_CERTIFICATE",
    "IDENTITY_METADATA",
    "NAME_TABLE_TYPE_URL",
    "SECRET_TYPE_URL",
    "TRUST_TYPE_URL",
    "DeltaRequest",
    "DeltaResource",
    "DeltaResponse",
    "SotwRequest",
    "decode_certificates",
    "decode_delta_request",
    "decode_delta_response",
    "decode_name_table",
    "decode_sotw_request",
    "decode_trust",
    "encode_certificate_request",
    "encode_certificate_secret",
    "encode_delta_request",
    "encode_delta_response",
    "encode_peers_secret",
    "encode_roots_secret",
    "encode_sotw_response",
]

SECRET_TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105
NAME_TABLE_TYPE_URL: Final = "type.googleapis.com/istio.networking.nds.v1.NameTable"
TRUST_TYPE_URL: Final = "type.googleapis.com/lateen.trust.v1.TrustBundle"
CREATE_CERTIFICATE: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
IDENTITY_METADATA: Final = "lateen-identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class SotwRequest:
    """A `DiscoveryRequest`. `error` is the client's reason to refuse the response `nonce`."""

    names: tuple[str, ...] = ()
    nonce: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRequest:
    """A `DeltaDiscoveryRequest`. `versions` are of what the client holds from an earlier stream."""

    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    nonce: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class DeltaResource:
    name: str
    version: str
    body: bytes  # the message itself, without its type


@dataclass(frozen=True, slots=True)
class DeltaResponse:
    type_url: str
    nonce: str
    resources: tuple[DeltaResource, ...]


# ---- secrets, as a server. Every `decode_` raises `BadInput`.


def decode_sotw_request(data: bytes) -> SotwRequest:
    fields = parse_fields(data)
    return SotwRequest(names=tuple(texts(fields, 3)), nonce=text(fields, 5), error=_error(messages(fields, 6)))


def encode_sotw_response(*, version: str, type_url: str, nonce: str, bodies: Iterable[bytes]) -> bytes:
    resources = b"".join(embedded(2, _any(type_url, body)) for body in bodies)
    return string(1, version) + resources + string(4, type_url) + string(5, nonce)


def decode_delta_request(data: bytes) -> DeltaRequest:
    fields = parse_fields(data)
    entries = [parse_fields(entry) for entry in messages(fields, 5)]
    return DeltaRequest(
        subscribe=tuple(texts(fields, 3)),
        unsubscribe=tuple(texts(fields, 4)),
        versions=tuple((text(entry, 1), text(entry, 2)) for entry in entries),
        nonce=text(fields, 6),
        error=_error(messages(fields, 7)),
    )


def encode_delta_response(*, type_url: str, nonce: str, resources: Iterable[DeltaResource]) -> bytes:
    entries = (
        string(1, each.version) + embedded(2, _any(type_url, each.body)) + string(3, each.name) for each in resources
    )
    return b"".join(embedded(2, entry) for entry in entries) + string(4, type_url) + string(5, nonce)


def encode_certificate_secret(name: str, *, chain: bytes, key: bytes) -> bytes:
    """Return a `Secret` with a certificate chain and its key, both in PEM."""
    certificate = embedded(1, _inline(chain)) + embedded(2, _inline(key))
    return string(1, name) + embedded(2, certificate)


def encode_roots_secret(name: str, roots: bytes, crl: bytes = b"") -> bytes:
    """Return a `Secret` with what others' certificates are checked by, in PEM: roots, and what they revoked."""
    revoked = embedded(7, _inline(crl)) if crl else b""
    return string(1, name) + embedded(4, embedded(1, _inline(roots)) + revoked)


def encode_peers_secret(name: str, bundle: TrustBundle, trust_domain: str) -> bytes:
    """Return a `Secret` that has Envoy check a peer by the roots of the peer's own trust domain, and by no others.

    That is the work of `envoy.tls.cert_validator.spiffe`: it picks roots by the first URI in the peer's certificate,
    and refuses peers of trust domains that it has none of. Roots of others than `trust_domain`, the mesh's own, are
    confined to the one that they are for (`lateen.wire.anchors`). Raises `BadInput` for a root that cannot be.
    """
    domains = b""
    for domain, roots in bundle.roots.items():
        pem = "".join(root if domain == trust_domain else confine(root, domain) for root in roots)
        domains += embedded(1, string(1, domain) + embedded(2, _inline(pem.encode("ascii"))))
    validator = string(1, "envoy.tls.cert_validator.spiffe") + embedded(2, _any(_SPIFFE_TYPE_URL, domains))
    return string(1, name) + embedded(4, embedded(12, validator))


# ---- the name table and the trust bundle, as a client


def encode_delta_request(
    type_url: str,
    *,
    node: Node | None = None,
    versions: Mapping[str, str] | None = None,
    nonce: str = "",
    error: str = "",
) -> bytes:
    """Return a `DeltaDiscoveryRequest`: the first one of a stream carries the node and what is held already."""
    held = versions or {}
    entries = (embedded(5, string(1, name) + string(2, held[name])) for name in sorted(held))
    refusal = embedded(7, number(1, _INVALID_ARGUMENT) + string(2, error)) if error else b""
    who = embedded(1, _node(node)) if node is not None else b""
    return who + string(2, type_url) + b"".join(entries) + string(6, nonce) + refusal


def decode_delta_response(data: bytes) -> DeltaResponse:
    fields = parse_fields(data)
    resources = []
    for entry in messages(fields, 2):
        resource = parse_fields(entry)
        packed = [parse_fields(part) for part in messages(resource, 2)]
        body = [part for each in packed for part in messages(each, 2)]
        resources.append(DeltaResource(text(resource, 3), text(resource, 1), body[-1] if body else b""))
    return DeltaResponse(text(fields, 4), text(fields, 5), tuple(resources))


def decode_name_table(data: bytes) -> dict[str, Entry]:
    table = {}
    for entry in messages(parse_fields(data), 1):
        fields = parse_fields(entry)
        info = parse_fields(b"".join(messages(fields, 2)))
        table[text(fields, 1)] = Entry(tuple(texts(info, 1)), text(info, 3), text(info, 4))
    return table


def decode_trust(data: bytes) -> TrustUpdate:
    fields = parse_fields(data)
    domains = [parse_fields(entry) for entry in messages(fields, 1)]
    bundle = TrustBundle.of({text(domain, 1): texts(domain, 2) for domain in domains})
    jwt_keys = tuple((text(domain, 1), text(domain, 3)) for domain in domains if text(domain, 3))
    return TrustUpdate(bundle, text(fields, 2), jwt_keys, text(fields, 3))


# ---- certificates, as a client


def encode_certificate_request(csr: bytes, seconds: int) -> bytes:
    """Return an `IstioCertificateRequest`; 0 seconds ask for the authority's default."""
    return string(1, csr) + number(3, seconds)


def decode_certificates(data: bytes) -> list[str]:
    """Return the chain of an `IstioCertificateResponse`."""
    return texts(parse_fields(data), 1)


_SPIFFE_TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
_INVALID_ARGUMENT: Final = 3  # google.rpc.Code


def _any(type_url: str, body: bytes) -> bytes:
    return string(1, type_url) + string(2, body)


def _inline(data: bytes) -> bytes:
    return embedded(2, data)  # DataSource.inline_bytes


def _error(statuses: list[bytes]) -> str:
    return text(parse_fields(statuses[-1]), 2) or "no reason given" if statuses else ""


def _node(node: Node) -> bytes:
    locality = b"".join(
        string(position, node.locality.get(part, "")) for position, part in enumerate(("region", "zone", "sub_zone"), 1)
    )
    return (
        string(1, node.id)
        + string(2, node.cluster)
        + embedded(3, encode_struct(node.metadata))
        + (embedded(4, locality) if locality else b"")
    )
