"""How an agent reaches its control plane: by the sockets of its state folder, or over TLS from elsewhere.

    LocalLink   `run/ca.sock`, `run/xds.sock`: the control plane knows the agent by its user
    RemoteLink  HOST:PORT: known by a join token once, and from then on by the certificate that it got for it

A `RemoteLink` trusts no server but one whose certificate goes back to a root that the token pins; later, to the mesh's
roots as they are then. It calls with its newest certificate, so a connection that is lost comes back with a valid one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from lateen.agent.bootstrap import PILOT_NAME
from lateen.agent.channel import CALL_SECONDS, open_local, open_secure, open_server_only
from lateen.agent.identity import CitadelClient, Svid
from lateen.agent.log import Log
from lateen.agent.messages import IDENTITY_METADATA
from lateen.errors import BadInput, LateenError, Unavailable
from lateen.settings import Settings
from lateen.wire.control import ControlClient
from lateen.wire.join import JOIN_NAME, MAX_FILE_BYTES, JoinToken, parse_join_token, select_roots
from lateen.wire.local import HEARTBEAT_SECONDS
from lateen.wire.spiffe import SpiffeId, parse_spiffe_id

__all__ = ["JoinFile", "Link", "LocalLink", "RemoteLink", "check_control_plane", "read_join_file"]

Roots = Callable[[Svid], bytes]


class Link(Protocol):
    """One agent's way to the control plane."""

    where: str  # for people
    xds: Path | str  # where ADS is: a socket, or HOST:PORT
    heartbeat_seconds: float | None  # how often it has to say that it lives; None: the control plane sees its process
    control: ControlClient
    calls: Any  # what makes calls, as a channel does, of services besides ADS

    async def reach(self, seconds: float) -> None:
        """Return once the control plane can be asked who this is. Raises `Unavailable` after `seconds`."""

    def citadel(self, namespace: str, service_account: str | None) -> CitadelClient:
        """Return what asks for certificates of one identity; None: whichever account is its own.

        The link closes it.
        """

    def follow(self, svid: Svid) -> None:
        """Call with this certificate from now on."""

    def trust(self, roots: Roots) -> None:
        """Check the control plane by the roots that this gives, from now on."""

    async def identity(self) -> SpiffeId | None:
        """Return who this agent is to become, where that is known before it is asked for. Raises `BadInput`."""

    async def close(self) -> None: ...


class LocalLink:
    """The sockets of the state folder."""

    heartbeat_seconds: float | None = None

    def __init__(self, settings: Settings) -> None:
        self.where = str(settings.ca_socket)
        self.xds: Path | str = settings.xds_socket
        self.calls = open_local(settings.ca_socket)
        self.control = ControlClient(self.calls, where=self.where)
        self._socket = settings.ca_socket
        self._citadels: list[CitadelClient] = []

    async def reach(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.calls.channel_ready()
        except TimeoutError as error:
            raise Unavailable(f"no control plane answers at {self.where}: start one with 'lateen up DIR'") from error

    def citadel(self, namespace: str, service_account: str | None) -> CitadelClient:
        if service_account is None:
            raise BadInput("service account: one wanted")
        citadel = CitadelClient(self._socket, namespace=namespace, service_account=service_account)
        self._citadels.append(citadel)
        return citadel

    def follow(self, svid: Svid) -> None:
        """It is known by its user."""

    async def identity(self) -> SpiffeId | None:
        return None

    def trust(self, roots: Roots) -> None:
        """Nobody else is on the other side of its own user's socket."""

    async def close(self) -> None:
        for citadel in self._citadels:
            await citadel.close()
        await self.calls.close()


class RemoteLink:
    """A control plane at `HOST:PORT`, joined by the token in a file."""

    heartbeat_seconds: float | None = HEARTBEAT_SECONDS

    def __init__(self, address: str, *, token_file: Path, roots_file: Path | None, log: Log) -> None:
        """`roots_file`: the mesh's roots, if they are not in the token's file. Raises `BadInput` for an address."""
        check_control_plane(address)
        self.where = address
        self.xds: Path | str = address
        self.calls = _Calls(self.channel)
        self.control = ControlClient(self.calls, where=address)
        self._token_file = token_file
        self._roots_file = roots_file
        self._log = log
        self._svid: Svid | None = None
        self._roots: Roots = lambda svid: svid.roots
        self._open: tuple[tuple[str, bytes], Any] | None = None  # (certificate, roots) -> the channel made with them
        self._closing: set[asyncio.Task[None]] = set()

    async def reach(self, seconds: float) -> None:
        """It is reached by joining."""

    def citadel(self, namespace: str, service_account: str | None) -> CitadelClient:
        return _RemoteCitadel(self, namespace, service_account)

    def follow(self, svid: Svid) -> None:
        self._svid = svid

    def trust(self, roots: Roots) -> None:
        self._roots = roots

    async def identity(self) -> SpiffeId | None:
        return (await self.token()).identity

    async def close(self) -> None:
        if self._open is not None:
            await self._open[1].close()
            self._open = None
        await asyncio.gather(*self._closing, return_exceptions=True)

    def joined(self) -> bool:
        """Whether it has a certificate to call with."""
        return self._svid is not None and datetime.now(UTC) < self._svid.not_after

    async def token(self) -> JoinFile:
        """Return what the token's file holds now. Raises `BadInput`."""
        return await asyncio.to_thread(read_join_file, self._token_file, self._roots_file, self._log)

    def channel(self) -> Any:
        """Return the channel with the newest certificate. Raises `Unavailable` before there is one."""
        svid = self._svid
        if svid is None:
            raise Unavailable(f"not joined yet: {self.where}")
        roots = self._roots(svid)
        made_of = (svid.serial, roots)
        if self._open is not None and self._open[0] == made_of:
            return self._open[1]
        if self._open is not None:
            # What is under way ends with the old certificate.
            task = asyncio.create_task(self._open[1].close(grace=CALL_SECONDS), name="old channel closes")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        channel = open_secure(self.xds, roots=roots, key=svid.key, chain=svid.chain, server_name=PILOT_NAME)
        self._open = (made_of, channel)
        return channel


class _RemoteCitadel(CitadelClient):
    """Asks Citadel over TLS: with a certificate while there is one that is valid, else with the join token."""

    def __init__(self, link: RemoteLink, namespace: str, service_account: str | None) -> None:
        self._link = link
        self._where = link.where
        self._account = service_account
        self._wanted = f"{namespace}/{service_account or '*'}"
        self._opened = None

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((IDENTITY_METADATA, self._wanted),) if self._account is not None else ()

    def _channel(self) -> Any:
        return self._link.channel()

    async def sign(self, csr: bytes, seconds: int) -> Sequence[str]:
        if self._link.joined():
            return await self._ask(self._channel(), csr, seconds, self._metadata)
        # The first one; or it was away for so long that its certificate has run out, which a new token mends.
        file = await self._link.token()
        channel = open_server_only(self._where, roots=file.roots, server_name=JOIN_NAME)
        try:
            bearer = ("authorization", f"Bearer {file.token.bearer}")
            return await self._ask(channel, csr, seconds, (*self._metadata, bearer))
        finally:
            await channel.close()


class _Calls:
    """Makes calls over whichever channel is the newest."""

    def __init__(self, channel: Callable[[], Any]) -> None:
        self._channel = channel

    def unary_unary(self, method: str) -> Any:
        return self._channel().unary_unary(method)


def check_control_plane(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, of IPv6 `[IP]:PORT`. Raises `BadInput`."""
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    version: int
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        version = 0 if bare and all(label and label.replace("-", "a").isalnum() for label in bare.split(".")) else -1
    if version < 0 or (version == 6) != (bare != host) or not (port.isdecimal() and 0 < int(port) < 65536):
        raise BadInput(f"control plane: HOST:PORT wanted, as 10.0.0.1:15012, got {address!r}")
    return bare, int(port)


@dataclass(frozen=True, slots=True)
class JoinFile:
    """What a token's file holds."""

    token: JoinToken
    roots: bytes  # those that it pins, PEM
    identity: SpiffeId | None  # what it is for, where it says so; the control plane knows


def read_join_file(token_file: Path, roots_file: Path | None, log: Log) -> JoinFile:
    """Return the token in a file and the roots that it pins, which are in that file, too, or in the other.

    Raises `BadInput`, without a word of what the file holds.
    """
    text = _read(token_file)
    if stat.S_IMODE(os.stat(token_file).st_mode) & 0o077:
        log.warning("join token can be read by others", file=str(token_file), wanted="mode 0600")
    line, _, rest = text.strip().partition(b"\n")
    first, _, _ = rest.strip().partition(b"\n")
    try:
        token = parse_join_token(line.decode("ascii", "replace"))
        identity = parse_spiffe_id(first.decode("ascii", "replace")) if first.startswith(b"spiffe://") else None
        roots = select_roots(token, rest if roots_file is None else _read(roots_file))
    except LateenError as error:
        hint = (
            "" if b"-----" in rest or roots_file is not None else "; it holds no roots: name their file with --ca-root"
        )
        raise BadInput(f"{token_file}: {error}{hint}") from error
    return JoinFile(token, roots, identity)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"{path}: more than {MAX_FILE_BYTES} bytes")
    return data
