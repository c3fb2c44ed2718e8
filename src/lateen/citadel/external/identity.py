"""The control plane's own certificate, where signing it takes a network and a handshake cannot wait for one.

It is renewed ahead, by a task, at half of its life, and kept in the state folder (key and chain in one file, 0600): a
control plane that starts again while the authority is away comes up with the one it had.
"""

from __future__ import annotations

import asyncio
import os
import random
import stat
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.citadel.authority import Authority, Clock, IssuedChain, utc_now
from lateen.citadel.external.check import MAX_CHAIN_BYTES, check_external_leaf, parse_chain
from lateen.citadel.external.issuer import ExternalIssuer, own_csr
from lateen.citadel.server_identity import LIFETIME, SERVER_NAMES, Pair, ServerIdentity, own_identity
from lateen.citadel.template import LeafRequest, Validity
from lateen.errors import BadInput, LateenError
from lateen.wire.files import write_atomically
from lateen.wire.renewal import MAX_JITTER, renewal_time

__all__ = ["FILE_NAME", "AwaitedServerIdentity"]

FILE_NAME: Final = "server.pem"
FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 30.0

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"


class AwaitedServerIdentity(ServerIdentity):
    """A `ServerIdentity` that is renewed by `run` instead of at a handshake. Made by `open`."""

    def __init__(
        self,
        issuer: ExternalIssuer,
        authority: Authority,
        folder: Path,
        first: Pair,
        *,
        lifetime: timedelta,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[], float] = lambda: random.uniform(-MAX_JITTER, MAX_JITTER),  # noqa: S311 not a secret
        log: Any = None,
    ) -> None:
        self._newest = first
        self._issuer = issuer
        self._folder = folder
        self._sleep = sleep
        self.fault = ""  # why it is not renewed
        super().__init__(authority, lifetime=lifetime, clock=clock, draw=draw, log=log)

    @classmethod
    async def open(
        cls,
        issuer: ExternalIssuer,
        authority: Authority,
        folder: Path,
        *,
        lifetime: timedelta = LIFETIME,
        clock: Clock = utc_now,
        log: Any = None,
        **options: Any,
    ) -> AwaitedServerIdentity:
        """Return it with the certificate that is kept, else with a new one. Raises `Unavailable`, `OSError`."""
        log = structlog.get_logger() if log is None else log
        pair = _load(folder / FILE_NAME, issuer, clock, log)
        if pair is None:
            pair = await _obtain(issuer, folder, lifetime)
        return cls(issuer, authority, folder, pair, lifetime=lifetime, clock=clock, log=log, **options)

    def renew_if_due(self) -> IssuedChain:
        """Return the newest certificate there is. Does not wait."""
        self._pair = self._newest
        return self._pair.issued

    async def run(self) -> None:
        """Renew it, until cancelled."""
        wait = FIRST_WAIT_SECONDS
        while True:
            if (left := (self._newest.renew_at - self._clock()).total_seconds()) > 0:
                await self._sleep(min(left, LOOK_SECONDS))
                continue
            try:
                pair = await _obtain(self._issuer, self._folder, self._lifetime, self._draw())
            except (LateenError, OSError) as error:
                self.fault = str(error)
                until = str(self._newest.issued.not_after)
                self._log.warning(
                    "own certificate not renewed", reason=self.fault, next_seconds=wait, holds_until=until
                )
                await self._sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
            else:
                self._newest = pair
                self.fault = ""
                wait = FIRST_WAIT_SECONDS
                self._log.info("own certificate renewed", identity=str(self.spiffe_id), serial=pair.issued.serial)

    def _make(self) -> Pair:
        return self._newest


async def _obtain(issuer: ExternalIssuer, folder: Path, lifetime: timedelta, jitter: float = 0.0) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    identity = own_identity(issuer.trust_domain)
    csr = own_csr(key, identity, SERVER_NAMES)
    issued = await issuer.issue(csr, identity, lifetime, SERVER_NAMES)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(folder / FILE_NAME, b"".join((key_pem, issued.leaf, *issued.chain)))
    return Pair(issued, "", renewal_time(issued.not_before, issued.not_after, jitter), key_pem)


def _load(path: Path, issuer: ExternalIssuer, clock: Clock, log: Any) -> Pair | None:
    """Return what is kept, if it holds; what does not is replaced without a word, as it is nobody's but ours."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_CHAIN_BYTES)
    except OSError:
        return None
    if mode & 0o077:
        log.warning("kept certificate is not used", file=str(path), reason=f"mode {mode:04o} lets others in")
        return None
    start = max(data.find(_CERTIFICATE), 0)
    try:
        key = serialization.load_pem_private_key(data[:start], password=None)
        leaf, *between = parse_chain(data[start:])
    except (ValueError, TypeError, UnsupportedAlgorithm, BadInput):
        log.warning("kept certificate is not used", file=str(path), reason="it cannot be read")
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    request = LeafRequest(
        public_key=key.public_key(),
        spiffe_id=own_identity(issuer.trust_domain),
        validity=Validity(leaf.not_valid_before_utc, leaf.not_valid_after_utc),
        serial=leaf.serial_number,
        dns_names=SERVER_NAMES,
    )
    problems = list(check_external_leaf(leaf, between, request, issuer.roots, clock()))
    if problems:
        log.warning("kept certificate is not used", file=str(path), reason="; ".join(problems))
        return None
    issued = issuer.chain_of(leaf, between)
    return Pair(issued, "", renewal_time(issued.not_before, issued.not_after, 0.0), data[:start])
