"""JWT-SVIDs: signing them, and telling a good one from all others.

In:  a key and claims; or a token from a stranger, who it should be for, and which keys each trust domain has.
Out: a token; or whose it is and what it claims.
Rules: the JWT-SVID specification, RFC 7515 (compact serialisation only), RFC 8725: the algorithm is one of nine and
must fit the key that the bundle names, so a token cannot choose how it is verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from lateen.errors import BadInput, Refused
from lateen.wire.jwk import MAX_KEY_ID, VerifyingKey, decode64, encode64
from lateen.wire.spiffe import split_spiffe_id

__all__ = ["MAX_TOKEN_BYTES", "JwtSvid", "Keys", "check_audience", "sign_jwt", "validate_jwt_svid"]

Keys = Mapping[str, Mapping[str, VerifyingKey]]  # trust domain -> key id -> key

MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_AUDIENCES: Final = 16
MAX_AUDIENCE_BYTES: Final = 512
SKEW_SECONDS: Final = 60  # how far ahead the issuer's clock may be: of `iat` and `nbf`. None for `exp`

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVE_OF: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}  # RFC 7518, section 3.4
_ALGORITHMS: Final = tuple(f"{kind}{bits}" for kind in ("RS", "ES", "PS") for bits in _HASHES)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """A token that was found good."""

    spiffe_id: str
    audience: tuple[str, ...]
    expires: int  # Unix seconds
    claims: Mapping[str, Any] = field(repr=False)


def check_audience(audience: Sequence[str]) -> tuple[str, ...]:
    """Return what a token may be made out to: each name once, in order. Raises `BadInput`."""
    names = tuple(dict.fromkeys(audience))
    if not 1 <= len(names) <= MAX_AUDIENCES:
        raise BadInput(f"audience: 1 to {MAX_AUDIENCES} names wanted, got {len(names)}")
    for name in names:
        if not 1 <= len(name.encode()) <= MAX_AUDIENCE_BYTES:
            raise BadInput(f"audience: names of 1 to {MAX_AUDIENCE_BYTES} bytes wanted, got {len(name.encode())}")
    return names


def sign_jwt(key: ec.EllipticCurvePrivateKey, key_id: str, claims: Mapping[str, Any]) -> str:
    """Return `claims` as a JWT signed with ES256. `key` is on P-256."""
    header = msgspec.json.encode({"alg": "ES256", "kid": key_id, "typ": "JWT"})
    signed = f"{encode64(header)}.{encode64(msgspec.json.encode(claims))}"
    r, s = decode_dss_signature(key.sign(signed.encode("ascii"), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encode64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def validate_jwt_svid(token: str, audience: str, keys: Keys, now: float) -> JwtSvid:
    """Return the JWT-SVID in `token` if it is one that `audience` may believe at `now` (Unix seconds).

    Raises `BadInput` for what is no JWT-SVID at all, `Refused` for one that is not to be believed: expired, for others,
    of an unknown trust domain, not signed by a key of its own trust domain. No message repeats the token.
    """
    if not audience:
        raise BadInput("audience: must not be empty")
    header, claims, signed, signature = _parts(token)
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in _ALGORITHMS:
        raise BadInput(f"token's alg: one of {', '.join(_ALGORITHMS)} wanted, got {str(algorithm)[:20]!r}")
    if header.get("typ", "JWT") not in ("JWT", "JOSE"):
        raise BadInput(f"token's typ: JWT or JOSE wanted, got {str(header['typ'])[:20]!r}")
    if "crit" in header:
        raise BadInput("token's crit: extensions that must be understood are not known here")  # RFC 7515, 4.1.11
    if not isinstance(key_id, str) or not 1 <= len(key_id) <= MAX_KEY_ID:
        raise BadInput("token's kid: the id of the signing key is wanted")
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise BadInput("token's sub: a SPIFFE ID wanted")
    trust_domain, _ = split_spiffe_id(subject)
    known = keys.get(trust_domain)
    if known is None:
        raise Refused(f"token is of trust domain {trust_domain!r}, which has no bundle here")
    key = known.get(key_id)
    if key is None or not _verifies(key, str(algorithm), signed, signature):
        raise Refused(f"token is not signed by a key of its trust domain {trust_domain!r}")
    audiences = _audiences(claims.get("aud"))
    if audience not in audiences:
        raise Refused("token is for another audience")
    expires = _check_times(claims, now)
    return JwtSvid(spiffe_id=subject, audience=audiences, expires=expires, claims=claims)


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Return header, claims, the bytes that are signed, the signature. Raises `BadInput`."""
    if len(token) > MAX_TOKEN_BYTES:
        raise BadInput(f"token of {len(token)} characters, at most {MAX_TOKEN_BYTES} wanted")
    pieces = token.split(".")
    if len(pieces) != 3 or not token.isascii():
        raise BadInput(f"token: three parts with dots between them wanted, got {len(pieces)}")
    try:
        header = msgspec.json.decode(decode64(pieces[0]), type=dict[str, Any])
        claims = msgspec.json.decode(decode64(pieces[1]), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput("token: header and claims are no JSON objects") from error
    return header, claims, f"{pieces[0]}.{pieces[1]}".encode("ascii"), decode64(pieces[2])


def _audiences(aud: object) -> tuple[str, ...]:
    if isinstance(aud, str):
        return (aud,)
    if isinstance(aud, list) and aud and all(isinstance(name, str) for name in aud):
        return tuple(aud)
    raise BadInput("token's aud: a text or a list of texts wanted")


def _check_times(claims: Mapping[str, Any], now: float) -> int:
    expires = _moment(claims, "exp")
    if expires is None:
        raise BadInput("token's exp: must be there")
    if now >= expires:
        raise Refused(f"token expired {int(now - expires)} s ago")
    for name in ("nbf", "iat"):
        moment = _moment(claims, name)
        if moment is not None and moment > now + SKEW_SECONDS:
            raise Refused(f"token's {name} is {int(moment - now)} s from now")
    return int(expires)


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise BadInput(f"token's {name}: Unix seconds wanted")
    return float(value)


def _verifies(key: VerifyingKey, algorithm: str, signed: bytes, signature: bytes) -> bool:
    digest = _HASHES[algorithm[2:]]
    try:
        match key:
            case ec.EllipticCurvePublicKey() if key.curve.name == _CURVE_OF.get(algorithm):
                size = (key.curve.key_size + 7) // 8
                if len(signature) != 2 * size:
                    return False
                r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
                return True
            case rsa.RSAPublicKey() if algorithm.startswith("RS"):
                key.verify(signature, signed, padding.PKCS1v15(), digest)
                return True
            case rsa.RSAPublicKey() if algorithm.startswith("PS"):
                pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.DIGEST_LENGTH)
                key.verify(signature, signed, pss, digest)
                return True
    except (InvalidSignature, ValueError):
        return False
    return False
