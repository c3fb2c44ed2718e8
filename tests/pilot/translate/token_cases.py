"""Golden cases of tokens, for `cases.py`. The key is one that RFC 7517 publishes (appendix A.1)."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from lateen.pilot.model.values_jwt import RequestAuth, TokenFilterInput, TokenIssuer
from lateen.pilot.translate.jwt import build_token_filter

__all__ = ["REQUEST_AUTH", "TOKEN_CASES"]

KEYS = (
    '{"keys":[{"crv":"P-256","kid":"1","kty":"EC","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",'
    '"y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}'
)
ONE = TokenIssuer(issuer="https://id.test", keys=KEYS)
FULL = TokenIssuer(
    issuer="https://full.test",
    audiences=("shop", "bank"),
    keys=KEYS,
    from_headers=(("x-token", "Token "), ("x-plain", "")),
    from_params=("ticket",),
    from_cookies=("session",),
    forward=True,
    payload_header="x-payload",
    claim_headers=(("x-user", "sub"), ("x-team", "org.team")),
    space_delimited_claims=("roles", "scope"),
)
REQUEST_AUTH = RequestAuth(enabled=True, outputs=("x-payload", "x-user", "x_team"))


def _case(*issuers: TokenIssuer, gateway: bool = False) -> Callable[[], Message]:
    return lambda: build_token_filter(TokenFilterInput(issuers=issuers, gateway=gateway))


TOKEN_CASES: dict[str, Callable[[], Message]] = {
    "tokens/one": _case(ONE),
    "tokens/several": _case(FULL, ONE),
    "tokens/no-keys": _case(TokenIssuer(issuer="https://away.test"), ONE),
    "tokens/gateway": _case(ONE, gateway=True),
    "tokens/none": _case(),
}
