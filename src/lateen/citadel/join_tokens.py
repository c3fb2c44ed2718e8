"""Join tokens as the authority keeps them: hashed, bound to one identity, short-lived, used up.

Kept in one small file, replaced before a use is granted: two callers that show the same token at once, or a control
plane that ends in between, cannot use it twice. For one process and one thread; nothing here waits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from lateen.citadel.audit import AuditEntry, AuditLog, audit_time
from lateen.citadel.authority import Clock, utc_now
from lateen.errors import BadInput, Refused, Unavailable
from lateen.wire.files import write_atomically
from lateen.wire.join import JoinToken, JoinTokenInfo
from lateen.wire.spiffe import SpiffeId

__all__ = ["DEFAULT_LIFETIME", "JoinTokens"]

DEFAULT_LIFETIME: Final = timedelta(minutes=10)
MAX_LIFETIME: Final = timedelta(hours=24)
MAX_USES: Final = 1000
MAX_TOKENS: Final = 1000  # that are valid at once
KEPT: Final = timedelta(hours=1)  # a token that is used up or over is listed so much longer, for people
SECRET_BYTES: Final = 32
_NOTHING: Final = hashlib.sha256(b"").hexdigest()


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    digest: str  # hexadecimal SHA-256 of the secret, which is random: nothing can be guessed from it
    trust_domain: str
    namespace: str
    service_account: str
    created: datetime
    expires: datetime
    uses: int
    used: int = 0

    @property
    def identity(self) -> SpiffeId:
        return SpiffeId(self.trust_domain, self.namespace, self.service_account)


class JoinTokens:
    """The tokens of one mesh, in the file at `path`."""

    def __init__(
        self, path: Path, *, trust_domain: str, audit: AuditLog | None = None, clock: Clock = utc_now, log: Any = None
    ) -> None:
        """A file that cannot be read is set aside: its tokens are then unknown, so nobody gets in by it."""
        self._path = path
        self._trust_domain = trust_domain
        self._audit = audit
        self._clock = clock
        self._log = structlog.get_logger() if log is None else log
        self._tokens = {token.name: token for token in self._load()}

    def create(self, identity: SpiffeId, *, lifetime: timedelta = DEFAULT_LIFETIME, uses: int = 1) -> JoinToken:
        """Return a new token, whose secret is known to nobody else. Raises `BadInput`, `Refused`, `Unavailable`."""
        if identity.trust_domain != self._trust_domain:
            raise BadInput(f"{identity} is not of trust domain {self._trust_domain!r}")
        if not timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
            raise BadInput(f"lifetime of {lifetime}, wanted 1 s to {MAX_LIFETIME.total_seconds() / 3600:g} h")
        if not 1 <= uses <= MAX_USES:
            raise BadInput(f"{uses} uses, wanted 1 to {MAX_USES}")
        now = self._clock()
        if sum(_state(token, now) == "valid" for token in self._tokens.values()) >= MAX_TOKENS:
            raise Refused(f"{MAX_TOKENS} join tokens are valid already; revoke some, or wait until they are over")
        token = JoinToken(name=secrets.token_hex(4), secret=secrets.token_bytes(SECRET_BYTES))
        kept = _Kept(
            name=token.name,
            digest=_digest(token.secret),
            trust_domain=identity.trust_domain,
            namespace=identity.namespace,
            service_account=identity.service_account,
            created=now,
            expires=now + lifetime,
            uses=uses,
        )
        self._store({**self._tokens, token.name: kept})
        self._record("token-created", kept, f"for {uses} use{'s' if uses > 1 else ''}")
        return token

    def listed(self) -> tuple[JoinTokenInfo, ...]:
        """Return what is known of each token, oldest first."""
        now = self._clock()
        return tuple(_info(token, now) for token in sorted(self._current(), key=lambda token: token.created))

    def info(self, name: str) -> JoinTokenInfo:
        """Return what is known of one token. Raises `BadInput`."""
        return _info(self._known(name), self._clock())

    def revoke(self, name: str) -> JoinTokenInfo:
        """Forget a token; returns what it was. Raises `BadInput` for an unknown one, `Unavailable`."""
        kept = self._known(name)
        self._store({key: value for key, value in self._tokens.items() if key != name})
        self._record("token-revoked", kept, "")
        return _info(kept, self._clock())

    def take(self, shown: JoinToken, wanted: str | None) -> SpiffeId:
        """Use a token once and return the identity that it is for.

        `wanted` is what the caller says it is, `<namespace>/<service account>`, and must be that identity. Raises
        `Refused`; `Unavailable` when the use cannot be written down, which is then not granted. A caller who does not
        have the secret learns nothing, not even whether there is such a token.
        """
        kept = self._tokens.get(shown.name)
        same = hmac.compare_digest(_digest(shown.secret), kept.digest if kept is not None else _NOTHING)
        if kept is None or not same:
            raise Refused("no such join token")
        identity = kept.identity
        if wanted is not None and wanted != f"{identity.namespace}/{identity.service_account}":
            raise Refused(f"join token {kept.name!r} is for another identity than {wanted!r}")
        state = _state(kept, self._clock())
        if state == "expired":
            raise Refused(f"join token {kept.name!r} was valid until {audit_time(kept.expires)} only")
        if state == "used":
            raise Refused(f"join token {kept.name!r} is used up: {kept.used} of {kept.uses}")
        self._store({**self._tokens, kept.name: msgspec.structs.replace(kept, used=kept.used + 1)})
        return identity

    def give_back(self, name: str) -> None:
        """Undo one use, after which nothing was issued. Does not raise: the worst is a use that is lost."""
        kept = self._tokens.get(name)
        if kept is None or not kept.used:
            return
        try:
            self._store({**self._tokens, name: msgspec.structs.replace(kept, used=kept.used - 1)})
        except Unavailable as error:
            self._log.warning("use of a join token lost", token=name, reason=str(error))

    # ---- the file

    def _known(self, name: str) -> _Kept:
        kept = next((token for token in self._current() if token.name == name), None)
        if kept is None:
            raise BadInput(f"no join token {name!r}: 'lateen token list' shows those that there are")
        return kept

    def _current(self) -> Iterable[_Kept]:
        now = self._clock()
        return [token for token in self._tokens.values() if now < token.expires + KEPT]

    def _store(self, tokens: dict[str, _Kept]) -> None:
        now = self._clock()
        current = {name: token for name, token in tokens.items() if now < token.expires + KEPT}
        try:
            write_atomically(self._path, msgspec.json.encode(list(current.values())))
        except OSError as error:
            raise Unavailable(f"join tokens cannot be written to {self._path}: {error.strerror}") from error
        self._tokens = current

    def _load(self) -> list[_Kept]:
        try:
            tokens = msgspec.json.decode(self._path.read_bytes(), type=list[_Kept])
            for token in tokens:
                _ = token.identity  # raises for one that cannot be
        except FileNotFoundError:
            return []
        except (msgspec.MsgspecError, BadInput, UnicodeDecodeError) as error:
            aside = self._path.with_name(f"{self._path.name}.broken")
            self._path.replace(aside)
            self._log.error("join tokens set aside", path=str(aside), reason=str(error))
            return []
        # A mesh that was renamed does not let in by tokens of its old name.
        return [token for token in tokens if token.trust_domain == self._trust_domain]

    def _record(self, event: str, kept: _Kept, reason: str) -> None:
        self._log.info(event.replace("token-", "join token "), token=kept.name, identity=str(kept.identity))
        if self._audit is not None:
            entry = AuditEntry(
                time=audit_time(self._clock()),
                event=event,
                identity=str(kept.identity),
                token=kept.name,
                not_after=audit_time(kept.expires),
                reason=reason,
            )
            self._audit.append(entry, to_disk=True)


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _state(token: _Kept, now: datetime) -> str:
    if token.used >= token.uses:
        return "used"
    return "valid" if now < token.expires else "expired"


def _info(token: _Kept, now: datetime) -> JoinTokenInfo:
    return JoinTokenInfo(
        name=token.name,
        identity=str(token.identity),
        created=audit_time(token.created),
        expires=audit_time(token.expires),
        uses=token.uses,
        used=token.used,
        state=_state(token, now),
    )
