"""Tokens in traffic cases: an issuer that serves its keys over HTTPS, and what requests carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from tests.fakes.certs import StrangeAuthority
from tests.fakes.tokens import jwks, sign
from tests.fakes.web import Web, json_answer

__all__ = ["ISSUER_PATH", "KEYS", "IssuerOfCases", "Token"]

KEYS = ("rsa", "ec", "ec-2", "ed")  # every one of them is served alone, `/ec`, and `/ec,ec-2` is both
ISSUER_PATH = "/issuer"


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token that a request carries. A claim that is null is left out."""

    iss: str | None = "https://issuer.test"
    sub: str | None = "alice"
    aud: str | list[str] | None = None
    claims: dict[str, Any] = {}
    key: str = "ec"
    kid: str | None = None
    lasts: float = 3600
    header: str = "authorization"
    prefix: str = "Bearer "

    def headers(self) -> dict[str, str]:
        """Return the header that carries it."""
        claims = {"iss": self.iss, "sub": self.sub, "aud": self.aud, **self.claims}
        return {self.header: self.prefix + sign(claims, self.key, lasts=self.lasts, kid=self.kid)}


class IssuerOfCases(Web):
    """Serves keys on loopback, with a certificate of its own authority, which `roots` is the file of."""

    def __init__(self, folder: Path) -> None:
        authority = StrangeAuthority()
        sets = {f"/{','.join(names)}": names for names in (*((key,) for key in KEYS), ("ec", "ec-2"))}
        super().__init__(
            {path: json_answer(jwks(*names)) for path, names in sets.items()}, authority=authority, names=["localhost"]
        )
        self.roots = folder / "issuer-roots.pem"
        self.roots.write_bytes(authority.root_pem)
        document = json.dumps({"issuer": self.url(ISSUER_PATH, "localhost"), "jwks_uri": self.url("/ec", "localhost")})
        self.answers[f"{ISSUER_PATH}/.well-known/openid-configuration"] = json_answer(document)
        self.answers["/html"] = json_answer("<html>Sign in</html>", "text/html")

    @property
    def words(self) -> list[str]:
        """What `lateen up` is told, so that it may fetch from here."""
        return ["--allow-fetch", "127.0.0.1", "--fetch-ca", str(self.roots)]

    @property
    def variables(self) -> Mapping[str, str]:
        """What cases may write for it."""
        inline = {f"KEYS_{key.upper().replace('-', '_')}": jwks(key) for key in KEYS}
        return {"JWKS": self.url("", "localhost"), "ISSUER": self.url(ISSUER_PATH, "localhost"), **inline}
