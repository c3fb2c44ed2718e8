"""Signs JWT-SVIDs for identities that somebody else has established, with keys that rotate by themselves."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from lateen.citadel.authority import Clock, utc_now
from lateen.citadel.jwt_keys import MAX_LIFETIME, JwtKey, KeyFolder, plan_keys
from lateen.errors import BadInput, Refused
from lateen.wire.jwk import VerifyingKey
from lateen.wire.jwt_svid import check_audience, sign_jwt
from lateen.wire.spiffe import SpiffeId, check_trust_domain

__all__ = ["DEFAULT_LIFETIME", "IssuedToken", "JwtAuthority"]

DEFAULT_LIFETIME: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """One JWT-SVID. The token is a secret: whoever holds it is its subject, until it expires."""

    token: str = field(repr=False)
    id: str  # its `jti`
    audience: tuple[str, ...]
    expires: datetime


class JwtAuthority:
    """Issues tokens in one trust domain. For one thread."""

    def __init__(
        self,
        folder: Path,
        trust_domain: str,
        *,
        clock: Clock = utc_now,
        on_keys: Callable[[], None] | None = None,
        log: Any = None,
    ) -> None:
        """Load the keys of `folder`, or make the first. `on_keys` is called when `public_keys` has changed.

        Raises `BadInput`, naming the file, for what must not be used, and `OSError`.
        """
        check_trust_domain(trust_domain)
        self.trust_domain = trust_domain
        self.on_keys = on_keys
        self._clock = clock
        self._log = structlog.get_logger() if log is None else log
        self._folder = KeyFolder(folder)
        self._keys = self._folder.load()
        self._plan = plan_keys(self._keys, clock())
        if self._plan.signs is None:
            self._keys.append(self._folder.make(clock()))
        self.rotate()

    @property
    def public_keys(self) -> Mapping[str, VerifyingKey]:
        """By key id: what tokens of this trust domain are verified by, now and soon."""
        return {key.id: key.key.public_key() for key in self._plan.told}

    def rotate(self) -> None:
        """Do what is due: make the next key, let another one sign, forget an old one. Call it every minute or so.

        Does not raise: when the next key cannot be written, the old one goes on signing, and that is logged.
        """
        now = self._clock()
        before = tuple(self._plan.told)
        self._plan = plan_keys(self._keys, now)
        try:
            if self._plan.wants_another:
                self._keys.append(self._folder.make(now))
                self._plan = plan_keys(self._keys, now)
                self._log.info("token key made", key=self._keys[-1].id)
            for key in self._plan.gone:
                self._folder.forget(key)
                self._keys.remove(key)
                self._log.info("token key forgotten", key=key.id)
        except OSError as error:
            self._log.error("token keys not rotated", reason=str(error))
        if self.on_keys is not None and self._plan.told != before:
            self.on_keys()

    def issue(self, spiffe_id: SpiffeId, audience: Sequence[str], lifetime: timedelta | None = None) -> IssuedToken:
        """Return a token that says `spiffe_id` to `audience`.

        Raises `BadInput` (audience, lifetime), `Refused` (an identity of another trust domain).
        """
        if spiffe_id.trust_domain != self.trust_domain:
            raise Refused(f"identity {spiffe_id} is not of trust domain {self.trust_domain!r}")
        lifetime = DEFAULT_LIFETIME if lifetime is None else lifetime
        if not timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
            raise BadInput(f"lifetime of {lifetime}, one second to {MAX_LIFETIME} wanted")
        names = check_audience(audience)
        self.rotate()  # a machine that slept must not sign with a key that nobody is told of any more
        now = self._clock().replace(microsecond=0)
        key = self._signing_key()
        token_id = secrets.token_hex(16)
        expires = now + lifetime
        claims = {
            "sub": str(spiffe_id),
            "aud": names,
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "iss": f"spiffe://{self.trust_domain}",
            "jti": token_id,
        }
        return IssuedToken(token=sign_jwt(key.key, key.id, claims), id=token_id, audience=names, expires=expires)

    def _signing_key(self) -> JwtKey:
        key = self._plan.signs
        assert key is not None  # one was made when this was
        return key
