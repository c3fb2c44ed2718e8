"""What a proxy is told about tokens: the values between the model and `lateen.pilot.translate`.

Listeners know that tokens are looked at (`RequestAuth`); which ones are believed is a value of its own
(`TokenFilterInput`), so that a key that is replaced touches no listener and ends no connection.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_REQUEST_AUTH", "RequestAuth", "TokenFilterInput", "TokenIssuer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuth:
    """What the listeners of one proxy do about tokens."""

    enabled: bool = False  # tokens are looked at
    outputs: tuple[str, ...] = ()  # headers that say what a token said, lower case, sorted: nobody else may set them


NO_REQUEST_AUTH = RequestAuth()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuer:
    """One rule: whose tokens are believed, where they are found and what becomes of them."""

    issuer: str = ""  # "" is not checked
    audiences: tuple[str, ...] = ()  # () is not checked
    keys: str = ""  # a JWK set of public keys, as JSON; "": none is known, so that every token is refused
    from_headers: tuple[tuple[str, str], ...] = ()  # (name, prefix)
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    forward: bool = False  # the application gets the token as well
    payload_header: str = ""
    claim_headers: tuple[tuple[str, str], ...] = ()  # (header, claim)
    space_delimited_claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFilterInput:
    """All rules that are for one proxy, by issuer. Without any, no token is looked at."""

    issuers: tuple[TokenIssuer, ...] = ()
    gateway: bool = False  # claims may decide the route
