"""What Envoy fetches over SDS, by name: the workload's identity, the trust bundle, and files that rules name.

    default                        certificate chain and key of the SVID
    ROOTCA                         whose certificates peers may have: roots, or those of each trust domain for itself
    CONTROLPLANECA                 the mesh's own roots alone: what the control plane's certificate is checked by
    file-cert:<chain>~<key>        a certificate that a DestinationRule or a Gateway names
    file-root:<path>[~<crl>]       roots of the same, and what they revoked; `file-root:system` are the machine's own

Names and forms are Istio's, but for the revocation list and the roots for the control plane: an authority that is
believed about another trust domain must not be able to pass for this one's control plane. A version is the hash of the
bytes: what did not change is not sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final, Protocol

from lateen.agent.bootstrap import CONTROL_PLANE_ROOTS
from lateen.agent.identity import Svid
from lateen.agent.log import Log
from lateen.agent.messages import encode_certificate_secret, encode_peers_secret, encode_roots_secret
from lateen.errors import BadInput
from lateen.wire.trust import TrustBundle

__all__ = ["CONTROL_PLANE_ROOTS", "PEER_ROOTS", "Held", "SecretStore", "SecretUser"]

PEER_ROOTS: Final = "ROOTCA"

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


class SecretUser(Protocol):
    """One stream of Envoy's."""

    def answer(self, name: str, version: str) -> str | None:
        """Return "" when it uses that version of a secret or none of that name, why not, or None: not known yet."""


class SecretStore:
    """The secrets of one workload; wakes streams when one changes."""

    def __init__(self, log: Log) -> None:
        self.bundle: TrustBundle | None = None  # what peers are checked by, once the control plane has told it
        self.revoked = b""  # with it: revocation lists
        self._users: set[SecretUser] = set()
        self._answered = asyncio.Event()
        self._held: dict[str, Held] = {}
        self._files: dict[str, tuple[tuple[int, int, int], ...]] = {}  # name -> state of its files when they were read
        self._wakers: set[asyncio.Event] = set()
        self._log = log

    def set_svid(self, svid: Svid) -> None:
        """Take a new identity; its roots only as long as there is no bundle, which is never older."""
        self._put("default", encode_certificate_secret("default", chain=svid.chain, key=svid.key))
        if self.bundle is None:
            self._put_roots(svid.roots)

    def set_bundle(self, bundle: TrustBundle, trust_domain: str, revoked: bytes = b"") -> None:
        """Check peers by `bundle` from now on; `trust_domain` is the mesh's own. Raises `BadInput`: nothing changes.

        `revoked` are revocation lists; Envoy's check of several trust domains knows none, so that they act in a bundle
        of one alone.
        """
        own = bundle.pem(trust_domain)
        if set(bundle.roots) == {trust_domain}:
            self.bundle, self.revoked = bundle, revoked
            self._put_roots(own, revoked)
            return
        peers = encode_peers_secret(PEER_ROOTS, bundle, trust_domain)
        self.bundle, self.revoked = bundle, revoked
        self._put(PEER_ROOTS, peers)
        self._put(CONTROL_PLANE_ROOTS, encode_roots_secret(CONTROL_PLANE_ROOTS, own, revoked))

    def roots(self, svid: Svid, trust_domain: str) -> bytes:
        """Return the mesh's own roots as they are known now, in PEM."""
        return svid.roots if self.bundle is None else self.bundle.pem(trust_domain)

    async def taken(self, *names: str) -> str:
        """Wait until Envoy uses these secrets as they are; return "" then, or why it refuses one.

        What no stream asks for counts as used: whoever asks later gets it as it is then.
        """
        while True:
            self._answered.clear()
            answers = [
                user.answer(name, held.version)
                for name in names
                if (held := self._held.get(name)) is not None
                for user in self._users
            ]
            if refusal := next((answer for answer in answers if answer), ""):
                return refusal
            if None not in answers:
                return ""
            await self._answered.wait()

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

    @contextlib.contextmanager
    def used_by(self, user: SecretUser) -> Iterator[None]:
        """Count a stream among those that have to use what is new."""
        self._users.add(user)
        try:
            yield
        finally:
            self._users.discard(user)
            self.heard()

    def heard(self) -> None:
        """Tell that Envoy has said something, or has gone."""
        self._answered.set()

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

    def _put_roots(self, pem: bytes, revoked: bytes = b"") -> None:
        for name in (PEER_ROOTS, CONTROL_PLANE_ROOTS):
            self._put(name, encode_roots_secret(name, pem, revoked))

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
