"""What Envoy fetches over SDS, by name: the workload's identity, the trust bundle, and files that rules name.

    default                        certificate chain and key of the SVID
    ROOTCA                         the mesh's roots
    file-cert:<chain>~<key>        a certificate that a DestinationRule or a Gateway names
    file-root:<path>[~<crl>]       roots of the same, and what they revoked; `file-root:system` are the machine's own

Names and forms are Istio's, but for the revocation list. A version is the hash of the bytes: what did not change is not
sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

from lateen.agent.identity import Svid
from lateen.agent.log import Log
from lateen.agent.messages import encode_certificate_secret, encode_roots_secret
from lateen.errors import BadInput

__all__ = ["Held", "SecretStore"]

MAX_FILE_BYTES: Final = 1 << 20  # all roots of a distribution are about 200 kB
LOOK_SECONDS: Final = 2.0  # how often files that are in use are looked at
SYSTEM_ROOTS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


@dataclass(frozen=True, slots=True)
class Held:
    """One secret as it is sent."""

    version: str
    body: bytes = field(repr=False)  # serialised Secret


class SecretStore:
    """The secrets of one workload; wakes streams when one changes."""

    def __init__(self, log: Log) -> None:
        self._held: dict[str, Held] = {}
        self._files: dict[str, tuple[tuple[int, int, int], ...]] = {}  # name -> state of its files when they were read
        self._wakers: set[asyncio.Event] = set()
        self._log = log

    def set_svid(self, svid: Svid) -> None:
        """Take a new identity and its roots."""
        self._put("default", encode_certificate_secret("default", chain=svid.chain, key=svid.key))
        self._put("ROOTCA", encode_roots_secret("ROOTCA", svid.roots))

    def get(self, name: str) -> Held | None:
        """Return one secret; None when there is none yet, or never will be."""
        if name not in self._held and name not in self._files and name.startswith("file-"):
            self._load(name)
        return self._held.get(name)

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever a secret changed."""
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            yield waker
        finally:
            self._wakers.discard(waker)

    def wake(self) -> None:
        """Make every listener look again."""
        for waker in self._wakers:
            waker.set()

    async def run(self) -> None:
        """Follow the files that are in use, until cancelled. A broken file leaves the last good one in force."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for name, state in list(self._files.items()):
                if _state(name) != state:
                    self._load(name)

    def _put(self, name: str, body: bytes) -> None:
        held = Held(blake2b(body, digest_size=10).hexdigest(), body)
        if self._held.get(name) != held:
            self._held[name] = held
            self.wake()

    def _load(self, name: str) -> None:
        self._files[name] = _state(name)
        try:
            self._put(name, _read(name))
        except (OSError, BadInput) as error:
            self._log.warning("secret not read", secret=name, reason=str(error))


def _paths(name: str) -> tuple[str, ...]:
    """Return the files behind a name: chain and key, or roots. Raises `BadInput`."""
    kind, _, rest = name.partition(":")
    if kind == "file-cert":
        chain, tilde, key = rest.partition("~")
        if not tilde or not chain or not key:
            raise BadInput(f"secret {name!r}: file-cert:<chain>~<key> wanted")
        return (chain, key)
    if kind == "file-root" and rest:
        roots, tilde, crl = rest.partition("~")
        if roots == "system":
            roots = next((path for path in SYSTEM_ROOTS if Path(path).exists()), SYSTEM_ROOTS[0])
        if roots and bool(tilde) == bool(crl):
            return (roots, crl) if crl else (roots,)
    raise BadInput(f"secret {name!r}: file-cert:<chain>~<key> or file-root:<path>[~<crl>] wanted")


def _state(name: str) -> tuple[tuple[int, int, int], ...]:
    """Return what tells that the files behind a name changed."""
    states = []
    with contextlib.suppress(OSError, BadInput, ValueError):  # ValueError: a path with a zero byte
        for path in _paths(name):
            stat = Path(path).stat()
            states.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(states)


def _read(name: str) -> bytes:
    parts = []
    for path in _paths(name):
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except ValueError as error:
            raise BadInput(f"secret {name!r}: {error}") from error
        if len(data) > MAX_FILE_BYTES or b"-----BEGIN " not in data:
            raise BadInput(f"file {path!r}: PEM of at most {MAX_FILE_BYTES} bytes wanted, got {len(data)} bytes")
        parts.append(data)
    if name.startswith("file-cert:"):
        return encode_certificate_secret(name, chain=parts[0], key=parts[1])
    return encode_roots_secret(name, *parts)
