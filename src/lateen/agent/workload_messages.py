"""The messages of the SPIFFE Workload API, as a server: requests in, responses out. Pure.

Field numbers and names of methods: the SPIFFE Workload API specification, service `SpiffeWorkloadAPI`, which has no
package. Tests hold each to the messages of another library. Certificates and keys are DER there, several of them one
after the other; trust domains are keyed by their SPIFFE ID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lateen.agent.protowire import embedded, encode_struct, parse_fields, string, text, texts
from lateen.errors import BadInput

__all__ = [
    "HEADER",
    "SERVICE",
    "JwtSvidRequest",
    "certificates_der",
    "decode_jwt_svid_request",
    "decode_validate_request",
    "domain_id",
    "encode_bundles",
    "encode_jwt_svid",
    "encode_validated",
    "encode_x509_svid",
    "key_der",
]

SERVICE: Final = "SpiffeWorkloadAPI"
HEADER: Final = ("workload.spiffe.io", "true")  # on every call, so that a browser cannot be made to place one

_DER: Final = serialization.Encoding.DER


@dataclass(frozen=True, slots=True)
class JwtSvidRequest:
    audience: tuple[str, ...]
    spiffe_id: str  # "": all that the caller has


def domain_id(trust_domain: str) -> str:
    """Return the SPIFFE ID of a trust domain."""
    return f"spiffe://{trust_domain}"


def certificates_der(pem: bytes) -> bytes:
    """Return certificates in PEM as the API wants them. Raises `BadInput`."""
    try:
        return b"".join(each.public_bytes(_DER) for each in x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise BadInput(f"no certificates in PEM: {error}") from error


def key_der(pem: bytes) -> bytes:
    """Return a private key in PEM as PKCS #8."""
    key = serialization.load_pem_private_key(pem, password=None)
    return key.private_bytes(_DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def encode_x509_svid(
    *, spiffe_id: str, chain: bytes, key: bytes, bundle: bytes, federated: Mapping[str, bytes]
) -> bytes:
    """Return an `X509SVIDResponse` of one SVID; everything DER, `federated` by trust domain."""
    svid = string(1, spiffe_id) + string(2, chain) + string(3, key) + string(4, bundle)
    return embedded(1, svid) + _map(3, federated)


def encode_bundles(field: int, bundles: Mapping[str, bytes]) -> bytes:
    """Return an `X509BundlesResponse` (`field` 2, DER) or a `JWTBundlesResponse` (`field` 1, JWK sets)."""
    return _map(field, bundles)


def decode_jwt_svid_request(data: bytes) -> JwtSvidRequest:
    """Return a `JWTSVIDRequest`. Raises `BadInput`."""
    fields = parse_fields(data)
    return JwtSvidRequest(tuple(texts(fields, 1)), text(fields, 2))


def encode_jwt_svid(spiffe_id: str, token: str) -> bytes:
    """Return a `JWTSVIDResponse` of one token."""
    return embedded(1, string(1, spiffe_id) + string(2, token))


def decode_validate_request(data: bytes) -> tuple[str, str]:
    """Return (audience, token) of a `ValidateJWTSVIDRequest`. Raises `BadInput`."""
    fields = parse_fields(data)
    return text(fields, 1), text(fields, 2)


def encode_validated(spiffe_id: str, claims: Mapping[str, Any]) -> bytes:
    """Return a `ValidateJWTSVIDResponse`. Raises `BadInput` for claims that no JSON could hold."""
    return string(1, spiffe_id) + embedded(2, encode_struct(claims))


def _map(field: int, entries: Mapping[str, bytes]) -> bytes:
    return b"".join(_entry(field, name, entries[name]) for name in sorted(entries))


def _entry(field: int, trust_domain: str, value: bytes) -> bytes:
    return embedded(field, string(1, domain_id(trust_domain)) + string(2, value))
