"""An intermediate that an external authority signs for us, and that signs workloads here: the fewest calls elsewhere.

    none is kept            asked for when the control plane starts, which cannot go on without one
    one that holds          signs; at two thirds of its life (spread) the next is asked for, with a new key
    the authority is away   the one there is goes on signing to its end; leaves never outlive it

It is kept as a folder in Istio's layout (`cacerts`), so all that follows (a new signer, other roots, proxies that have
to take them first) is what follows when a person replaces such files; and a restart needs no authority:

    current                 a link to the folder in force, replaced in one step
    SERIAL/ca-cert.pem      the intermediate
    SERIAL/ca-key.pem       its key (0600), which leaves this process for this file only
    SERIAL/cert-chain.pem   those between it and the root
    SERIAL/root-cert.pem    the roots that are believed
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lateen.citadel.authority import Clock, utc_now
from lateen.citadel.external.check import (
    MAX_CHAIN_BYTES,
    check_external_intermediate,
    parse_chain,
    split_chain,
    tolerance,
)
from lateen.citadel.external.guard import Guard
from lateen.citadel.external.interface import Order
from lateen.citadel.external.issuer import own_csr
from lateen.citadel.external.roots import pem_of_all
from lateen.citadel.store import CERTIFICATE_FILE, KEY_FILE, PrivateKey
from lateen.errors import BadInput, LateenError
from lateen.wire.files import write_atomically

__all__ = ["CHAIN_FILE", "CURRENT", "ROOTS_FILE", "Intermediate", "IntermediateKeeper"]

CURRENT: Final = "current"
CHAIN_FILE: Final = "cert-chain.pem"
ROOTS_FILE: Final = "root-cert.pem"
RENEW_AT_SHARE: Final = 2 / 3
SPREAD: Final = 0.05  # of its life: replicas do not come together
FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 30.0  # the wall clock is looked at this often: a machine may sleep


@dataclass(frozen=True, slots=True)
class Intermediate:
    """A signing certificate with its key."""

    certificate: x509.Certificate
    between: tuple[x509.Certificate, ...]  # its issuers, without the root
    key: PrivateKey = field(repr=False)


class IntermediateKeeper:
    """Gets, keeps and renews the intermediate below `roots`. For one event loop."""

    def __init__(
        self,
        guard: Guard,
        roots: Sequence[x509.Certificate],
        folder: Path,
        *,
        lifetime: timedelta,
        clock: Clock = utc_now,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[], float] = lambda: random.uniform(-SPREAD, SPREAD),  # noqa: S311 not a secret
        log: Any = None,
    ) -> None:
        """`folder` is the authority's own in the state folder, and exists."""
        self.current: Intermediate | None = None
        self.fault = ""  # why the next one is late; "" when all is well
        self.renew_at: datetime | None = None
        self.on_new: Callable[[], None] = _nothing  # called after the folder in force was replaced
        self._guard = guard
        self._roots = tuple(roots)
        self._folder = folder
        self._lifetime = lifetime
        self._clock = clock
        self._sleep = sleep
        self._draw = draw
        self._log = structlog.get_logger() if log is None else log

    @property
    def material(self) -> Path:
        """The folder of what is in force."""
        return self._folder / CURRENT

    async def ensure(self) -> None:
        """Take what is kept if it can be used, else get one. Raises `Unavailable`, `Refused`, `BadInput`, `OSError`."""
        self._load()
        if self.current is None:
            await self.obtain()

    async def obtain(self) -> Intermediate:
        """Return a new one, signed, checked and kept. Raises `Unavailable`, `Refused`, `BadInput`, `OSError`."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = await self._guard.sign(Order(profile="intermediate", csr=own_csr(key), lifetime=self._lifetime))
        try:
            certificate, between = split_chain(parse_chain(pem), self._roots)
        except BadInput as error:
            raise self._guard.lied(str(error)) from error
        fresh = Intermediate(certificate, between, key)
        problems = self._problems(fresh, self._clock() + self._lifetime + tolerance(self._lifetime))
        if problems:
            raise self._guard.lied("; ".join(problems))
        self._keep(fresh)
        self._take(fresh)
        self._log.info(
            "intermediate received",
            authority=self._guard.name,
            serial=f"{certificate.serial_number:x}",
            issuer=certificate.issuer.rfc4514_string(),
            not_after=str(certificate.not_valid_after_utc),
        )
        self.on_new()
        return fresh

    async def run(self) -> None:
        """Renew it, until cancelled."""
        wait = FIRST_WAIT_SECONDS
        while True:
            if self.renew_at is not None and (left := (self.renew_at - self._clock()).total_seconds()) > 0:
                await self._sleep(min(left, LOOK_SECONDS))
                continue
            try:
                await self.obtain()
            except (LateenError, OSError) as error:
                self.fault = str(error)
                until = "" if self.current is None else str(self.current.certificate.not_valid_after_utc)
                self._log.warning(
                    "intermediate not renewed", reason=self.fault, next_seconds=round(wait, 1), holds_until=until
                )
                await self._sleep(wait)
                wait = min(wait * 2, self._longest_wait())
            else:
                wait = FIRST_WAIT_SECONDS

    def _load(self) -> None:
        """Take the one that is kept; one that cannot be used is logged, and another will be asked for.

        Raises `BadInput` when others could read its key.
        """
        folder = self.material
        key_path = folder / KEY_FILE
        if not key_path.exists():
            return
        mode = stat.S_IMODE(key_path.stat().st_mode)
        if mode & 0o077:
            raise BadInput(
                f"{key_path}: mode {mode:04o} lets others in, 0600 wanted; if others have read it, delete it"
            )
        found = _read(folder, self._roots)
        if isinstance(found, str):
            self._log.warning("kept intermediate is not used", folder=str(folder), reason=found)
            return
        problems = self._problems(found, found.certificate.not_valid_after_utc)
        if problems:
            self._log.warning("kept intermediate is not used", folder=str(folder), reason="; ".join(problems))
            return
        if (folder / ROOTS_FILE).read_bytes() != pem_of_all(self._roots):  # other roots were pinned meanwhile
            self._keep(found)
        self._take(found)

    def _keep(self, intermediate: Intermediate) -> None:
        """Write it to a folder of its own and have the link lead there; before it is used, to outlive a crash."""
        certificate = intermediate.certificate
        place = self._folder / f"{certificate.serial_number:x}-{os.urandom(4).hex()}"
        place.mkdir(mode=0o700)
        write_atomically(place / KEY_FILE, _key_pem(intermediate.key))
        write_atomically(place / CERTIFICATE_FILE, pem_of_all((certificate,)))
        write_atomically(place / CHAIN_FILE, pem_of_all((certificate, *intermediate.between)))
        write_atomically(place / ROOTS_FILE, pem_of_all(self._roots))
        link = self._folder / f".{CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(place.name)
        os.replace(link, self.material)
        for other in self._folder.iterdir():
            if other.is_dir() and not other.is_symlink() and other != place:
                shutil.rmtree(other, ignore_errors=True)  # a key that signs nothing any more

    def _take(self, intermediate: Intermediate) -> None:
        certificate = intermediate.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        self.current = intermediate
        self.renew_at = begin + (end - begin) * (RENEW_AT_SHARE + self._draw())
        self.fault = ""

    def _problems(self, intermediate: Intermediate, not_after: datetime) -> list[str]:
        return list(
            check_external_intermediate(
                intermediate.certificate,
                intermediate.between,
                key=intermediate.key.public_key(),
                not_after=not_after,
                roots=self._roots,
                now=self._clock(),
            )
        )

    def _longest_wait(self) -> float:
        """Return a wait that leaves several tries to an intermediate that ends soon."""
        if self.current is None:
            return LONGEST_WAIT_SECONDS
        left = (self.current.certificate.not_valid_after_utc - self._clock()).total_seconds()
        return min(LONGEST_WAIT_SECONDS, max(left / 10, FIRST_WAIT_SECONDS))


def _read(folder: Path, roots: Sequence[x509.Certificate]) -> Intermediate | str:
    """Return what a folder holds, or what is wrong with it; returned, so that no traceback has the key in it."""
    try:
        with (folder / KEY_FILE).open("rb") as file:
            key = serialization.load_pem_private_key(file.read(MAX_CHAIN_BYTES), password=None)
        with (folder / CHAIN_FILE).open("rb") as file:
            certificate, between = split_chain(parse_chain(file.read(MAX_CHAIN_BYTES)), roots)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, BadInput):
        return "it cannot be read"
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return "its key is of another type"
    return Intermediate(certificate, between, key)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _nothing() -> None:
    return None
