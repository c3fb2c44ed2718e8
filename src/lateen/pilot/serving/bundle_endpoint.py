"""The SPIFFE bundle endpoint: what this trust domain's identities are verified by, for whoever federates with it.

In:  the bundle as it is at each request; an address; a certificate from files (profile https_web), or none, and then
     the control plane's own SVID answers (profile https_spiffe).
Out: one document at `/` over HTTPS; nothing else is answered there. It holds public keys only.
Rules: the SPIFFE Federation specification. Whoever reaches the port gets the document, as the specification wants, so
the port is opened only when asked for, and what strangers can make it cost is bounded by `wire.http_server`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from lateen.citadel.authority import Clock, utc_now
from lateen.citadel.server_identity import ServerIdentity
from lateen.errors import BadInput, Refused
from lateen.wire.files import write_atomically
from lateen.wire.http_server import HttpServer, Request, Response, text_response
from lateen.wire.memory_tls import server_context
from lateen.wire.spiffe_bundle import Bundle, format_bundle

__all__ = [
    "DEFAULT_REFRESH",
    "BundleEndpoint",
    "BundleEndpointOptions",
    "FileCertificate",
    "OwnCertificate",
    "Sequence",
]

DEFAULT_REFRESH: Final = timedelta(minutes=5)  # what the specification proposes
BACKLOG: Final = 128
MAX_FILE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEndpointOptions:
    """What `lateen up` is told about the endpoint. Both of `certificate` and `key`, or neither."""

    address: str
    port: int
    certificate: Path | None = None  # chain in PEM; None: the control plane's own SVID
    key: Path | None = None
    refresh: timedelta = DEFAULT_REFRESH  # how often others are asked to look

    @property
    def profile(self) -> str:
        return "https_spiffe" if self.certificate is None else "https_web"


class Sequence:
    """The bundle's number, which grows with each change of what is in it, over restarts too."""

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self._path = path
        self._clock = clock
        self._known: _Known | None = None

    def of(self, bundle: Bundle) -> int:
        """Return the number of a bundle: that of the last one if it is equal to it, else a greater one."""
        digest = hashlib.sha256(format_bundle(bundle)).hexdigest()
        if self._known is None:
            self._known = self._read()
        if self._known is None or self._known.digest != digest:
            # Seconds, so that a state folder that was lost does not begin anew below what others have seen.
            number = max(int(self._clock().timestamp()), self._known.number + 1 if self._known is not None else 0)
            self._known = _Known(digest=digest, number=number)
            with contextlib.suppress(OSError):  # a full disk makes the number jump at the next start, no more
                write_atomically(self._path, msgspec.json.encode(self._known))
        return self._known.number

    def _read(self) -> _Known | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Known)
        except (OSError, msgspec.DecodeError):
            return None


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    number: int


class OwnCertificate:
    """The control plane's own SVID, renewed as it goes."""

    def __init__(self, identity: ServerIdentity) -> None:
        self._identity = identity
        self._made: tuple[bytes, ssl.SSLContext] | None = None

    def __call__(self) -> ssl.SSLContext:
        chain, key = self._identity.material()
        if self._made is None or self._made[0] != chain:
            self._made = (chain, server_context(chain, key))
        return self._made[1]


class FileCertificate:
    """A certificate and key in files, which may be replaced at any time."""

    def __init__(self, certificate: Path, key: Path, log: Any = None) -> None:
        """Raises `BadInput`, naming the file, for what cannot be used."""
        self._paths = (certificate, key)
        self._log = structlog.get_logger() if log is None else log
        self._state = self._look()
        self._context = self._load()

    def __call__(self) -> ssl.SSLContext:
        """Return the context of the files as they are; of the last good ones while they are broken."""
        state = self._look()
        if state != self._state:
            self._state = state
            try:
                self._context = self._load()
                self._log.info("bundle endpoint's certificate replaced", certificate=str(self._paths[0]))
            except BadInput as error:
                self._log.error("bundle endpoint's certificate not replaced", reason=str(error))
        return self._context

    def _load(self) -> ssl.SSLContext:
        chain, key = (_read_file(path) for path in self._paths)
        try:
            return server_context(chain, key)
        except ssl.SSLError as error:
            # Its text names what is wrong with them, never what is in them.
            raise BadInput(f"{self._paths[0]} and {self._paths[1]}: {error.reason or 'no certificate'}") from None

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        try:
            stats = [os.stat(path) for path in self._paths]
        except OSError:
            return ()
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


class BundleEndpoint:
    """Serves one document. `start` it, `stop` it."""

    def __init__(
        self,
        options: BundleEndpointOptions,
        bundle: Callable[[], Bundle],
        certificate: Callable[[], ssl.SSLContext],
        sequence: Sequence,
    ) -> None:
        """`bundle` gives roots and keys of now; number and refresh hint are added here."""
        self.served = 0
        self._options = options
        self._bundle = bundle
        self._sequence = sequence
        self._server = HttpServer(self._answer, structlog.get_logger(), tls=certificate)

    async def start(self) -> None:
        """Listen. Raises `Refused` when the address is not to be had."""
        address, port = self._options.address, self._options.port
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((address, port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise Refused(f"bundle endpoint cannot listen on {address}:{port}: {error.strerror}") from error
        await self._server.serve_socket(sock)

    async def stop(self) -> None:
        await self._server.stop()

    def document(self) -> bytes:
        """Return what is served now."""
        bundle = self._bundle()
        return format_bundle(
            Bundle(
                roots=bundle.roots,
                jwt_keys=bundle.jwt_keys,
                sequence=self._sequence.of(bundle),
                refresh_seconds=max(1, int(self._options.refresh.total_seconds())),
            )
        )

    async def _answer(self, request: Request) -> Response:
        if request.path != "/":
            return text_response(404, "the bundle is at /\n")
        self.served += 1
        return Response(200, self.document(), "application/json")


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
