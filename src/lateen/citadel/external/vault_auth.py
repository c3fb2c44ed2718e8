"""Who we are to a Vault: a token, had in one of three ways, kept alive, replaced when it ends.

    token        a file holds it; read anew when it changed, as an agent beside us may write it
    appRole      a role ID and a secret ID, each in a file, are exchanged for one
    kubernetes   the Pod's own service account token is exchanged for one

HTTP API: auth/token/lookup-self, auth/token/renew-self, auth/<path>/login; `auth.client_token`, `lease_duration`
(seconds, 0: it does not end) and `renewable` of the answers. Files are read for each login, so what is replaced in them
is used without a restart; nothing in them is ever part of a message.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import msgspec

from lateen.api.base import OneOf, Spec
from lateen.citadel.external.interface import Context
from lateen.errors import LateenError, Refused, Unavailable

__all__ = ["Session", "VaultAuth", "check_vault_auth"]

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
MountPath = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z")]

RENEW_AT_SHARE: Final = 2 / 3  # of a lease: late enough to be rare, early enough to be tried again
YOUNG_SECONDS: Final = 5.0  # a role that may not sign would else bring a login with each order
MAX_SECRET_BYTES: Final = 16 * 1024
POD_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 a path


class TokenAuth(Spec, frozen=True, kw_only=True):
    """A token that somebody else has got."""

    file: Text


class AppRoleAuth(Spec, frozen=True, kw_only=True):
    """The AppRole method."""

    path: MountPath = "approle"
    role_id_file: Text
    secret_id_file: Text


class KubernetesAuth(Spec, frozen=True, kw_only=True):
    """The Kubernetes method."""

    path: MountPath = "kubernetes"
    role: Text
    token_file: Text = POD_TOKEN


class VaultAuth(Spec, frozen=True, kw_only=True):
    """One of the three."""

    ONE_OF: ClassVar[OneOf] = (("token", "app_role", "kubernetes"),)

    token: TokenAuth | None = None
    app_role: AppRoleAuth | None = None
    kubernetes: KubernetesAuth | None = None


def check_vault_auth(auth: VaultAuth, path: str) -> Iterator[tuple[str, str]]:
    """Yield (field, fault)."""
    if auth.token is None and auth.app_role is None and auth.kubernetes is None:
        yield path, "must have one of token, appRole and kubernetes"


# method, path below /v1/, token or "" for none, body -> `data` and `auth` of the answer
Call = Callable[[str, str, str, Mapping[str, Any] | None], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Lease:
    token: str = field(repr=False)
    renew_at: float  # of the clock; infinity: it does not end
    ends_at: float
    renewable: bool
    since: float


class Session:
    """Holds the token. For one event loop."""

    def __init__(self, auth: VaultAuth, context: Context, call: Call, clock: Callable[[], float]) -> None:
        self._auth = auth
        self._context = context
        self._call = call
        self._clock = clock
        self._lease: _Lease | None = None
        self._changing = asyncio.Lock()  # many orders may find at once that the token has ended
        self.logins = 0
        self.renewals = 0

    @property
    def method(self) -> str:
        """Which way, as configuration calls it."""
        if self._auth.token is not None:
            return "token"
        return "appRole" if self._auth.app_role is not None else "kubernetes"

    def drop(self, token: str) -> None:
        """The Vault does not take this token: the next call gets another, unless this one is new itself."""
        lease = self._lease
        if lease is not None and lease.token == token and self._clock() - lease.since >= YOUNG_SECONDS:
            self._lease = None

    def due_in(self) -> float:
        """Return the seconds until there is something to do; 0 when there is."""
        return 0.0 if self._lease is None else max(self._lease.renew_at - self._clock(), 0.0)

    async def token(self) -> str:
        """Return a token that holds now. Raises `Unavailable` (files that cannot be used too), `Refused`."""
        async with self._changing:
            return await self._current()

    async def _current(self) -> str:
        lease = self._lease
        if lease is not None and self._auth.token is not None and self._read_token() != lease.token:
            lease = None
        if lease is not None and self._clock() >= lease.renew_at:
            lease = await self._renewed(lease)
        if lease is None or self._clock() >= lease.ends_at:
            lease = await self._login()
        self._lease = lease
        return lease.token

    async def _renewed(self, lease: _Lease) -> _Lease | None:
        """Return the lease, longer; None when it has to be replaced."""
        if not lease.renewable:
            return None
        try:
            answer = await self._call("POST", "auth/token/renew-self", lease.token, {})
        except Refused:
            return None  # revoked, or at the end of its longest life
        except LateenError:
            if self._clock() < lease.ends_at:
                return lease  # it still holds; tried again with the next call
            raise
        self.renewals += 1
        renewed = self._lease_of(answer, lease.token)
        # At its longest life a token is renewed by less each time; a new one is had before that gets short.
        shorter = renewed.ends_at <= lease.ends_at + 1
        return None if shorter and self._auth.token is None else renewed

    async def _login(self) -> _Lease:
        auth = self._auth
        self.logins += 1
        if auth.token is not None:
            token = self._read_token()
            data = (await self._call("GET", "auth/token/lookup-self", token, None)).get("data") or {}
            return self._lease_of({"lease_duration": data.get("ttl"), "renewable": data.get("renewable")}, token)
        if auth.app_role is not None:
            path = auth.app_role.path
            body = {
                "role_id": _read_secret(self._context.path(auth.app_role.role_id_file), private=False),
                "secret_id": _read_secret(self._context.path(auth.app_role.secret_id_file), private=True),
            }
        elif auth.kubernetes is not None:
            path = auth.kubernetes.path
            jwt = _read_secret(self._context.path(auth.kubernetes.token_file), private=False)
            body = {"role": auth.kubernetes.role, "jwt": jwt}
        else:
            raise AssertionError("checked with the configuration")
        answer = await self._call("POST", f"auth/{path}/login", "", body)
        granted = answer.get("client_token")
        if not isinstance(granted, str) or not granted:
            raise Unavailable(f"login at auth/{path} brought no client_token")
        return self._lease_of(answer, granted)

    def _read_token(self) -> str:
        assert self._auth.token is not None
        return _read_secret(self._context.path(self._auth.token.file), private=True)

    def _lease_of(self, answer: Mapping[str, Any], token: str) -> _Lease:
        seconds = answer.get("lease_duration")
        now = self._clock()
        if not isinstance(seconds, int) or seconds <= 0:
            return _Lease(token, float("inf"), float("inf"), False, now)
        renewable = answer.get("renewable") is True
        return _Lease(token, now + seconds * RENEW_AT_SHARE, now + seconds, renewable, now)


def _read_secret(path: Path, *, private: bool) -> str:
    """Return a file's one line. Raises `Unavailable`, which names the file and never tells its content."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    if private and mode & 0o007:
        raise Unavailable(f"{path}: mode {mode:04o} lets everyone read a secret, 0600 wanted")
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    # Header values: no line break may get into one.
    if len(data) > MAX_SECRET_BYTES or not text or not text.isprintable():
        raise Unavailable(f"{path}: one line of text wanted, at most {MAX_SECRET_BYTES} bytes")
    return text
