"""The keys that sign JWT-SVIDs: when each is made, signs and goes, and the folder that keeps them.

    jwt/<Unix seconds of its making>.pem   0600  one P-256 key, PKCS #8; the folder is 0700

A key has three times. Made, it is told to everyone who asks for the bundle, and signs nothing for `AHEAD`: by then
even those who ask seldom know it. Then it signs, until the next one, made `EVERY` after it, does. It stays told for
`BEHIND` more, until the last token that it signed has expired. The first key of a mesh signs at once: nobody knows an
older one.

Like the root, what is damaged or open to others is an error that names the file, and a person decides.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.errors import BadInput
from lateen.wire.files import write_atomically
from lateen.wire.jwk import thumbprint

__all__ = ["AHEAD", "BEHIND", "EVERY", "MAX_LIFETIME", "JwtKey", "KeyFolder", "Plan", "plan_keys"]

MAX_LIFETIME: Final = timedelta(hours=1)  # of a token
EVERY: Final = timedelta(hours=24)  # from the making of a key to that of the next
AHEAD: Final = timedelta(hours=1)  # twelve times the refresh hint of the bundle endpoint
BEHIND: Final = MAX_LIFETIME + timedelta(minutes=5)  # for clocks that differ

_MAX_FILE_BYTES: Final = 4096  # a P-256 key has 241


@dataclass(frozen=True, slots=True)
class JwtKey:
    """One signing key. `made` is aware, in UTC, whole seconds."""

    made: datetime
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def id(self) -> str:
        return thumbprint(self.key.public_key())


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with some keys at some moment."""

    signs: JwtKey | None  # None: there is no key at all
    told: tuple[JwtKey, ...]  # whose public halves are in the bundle, oldest first
    gone: tuple[JwtKey, ...]  # that verify nothing any more
    wants_another: bool


def plan_keys(keys: Sequence[JwtKey], now: datetime) -> Plan:
    """Return which of the keys signs now, which are told, which may be forgotten, and whether the next one is due."""
    ordered = sorted(keys, key=lambda key: key.made)
    if not ordered:
        return Plan(None, (), (), wants_another=True)
    first = ordered[0].made
    # From when on each signs; the oldest that is left has nobody before it to wait for.
    begins = [key.made if key.made == first else key.made + AHEAD for key in ordered]
    current = max((index for index, begin in enumerate(begins) if begin <= now), default=0)
    gone = tuple(key for index, key in enumerate(ordered[:current]) if begins[index + 1] + BEHIND <= now)
    due = now >= ordered[-1].made + EVERY
    return Plan(ordered[current], tuple(key for key in ordered if key not in gone), gone, wants_another=due)


class KeyFolder:
    """Keeps the keys. Every method raises `OSError`; `load` also `BadInput`, naming the file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> list[JwtKey]:
        """Return what is kept, making the folder where it is absent."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(self._folder, self._folder.stat(), "0700")
        return [self._read(path) for path in sorted(self._folder.glob("*.pem"))]

    def make(self, now: datetime) -> JwtKey:
        """Make a key and keep it."""
        made = now.replace(microsecond=0)
        while self._path(made).exists():
            made += timedelta(seconds=1)
        key = JwtKey(made, ec.generate_private_key(ec.SECP256R1()))
        pem = key.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomically(self._path(made), pem)
        return key

    def forget(self, key: JwtKey) -> None:
        self._path(key.made).unlink(missing_ok=True)

    def _path(self, made: datetime) -> Path:
        return self._folder / f"{int(made.timestamp())}.pem"

    def _read(self, path: Path) -> JwtKey:
        if not path.stem.isascii() or not path.stem.isdecimal() or len(path.stem) > 11:
            raise BadInput(f"{path}: a key's file is named for the second of its making, such as 1790000000.pem")
        key = _parse_key(path)
        if isinstance(key, str):
            raise BadInput(f"{path}: {key}; move it away, and what it signed is believed no more")
        return JwtKey(datetime.fromtimestamp(int(path.stem), UTC), key)


def _parse_key(path: Path) -> ec.EllipticCurvePrivateKey | str:
    """Return the key in a file, or what is wrong with it: no frame of a traceback holds the bytes of a key."""
    with path.open("rb") as file:
        _check_private(path, os.fstat(file.fileno()), "0600")
        pem = file.read(_MAX_FILE_BYTES)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "cannot be read as a private key in PEM"
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    return "private key of another type, P-256 wanted"


def _check_private(path: Path, status: os.stat_result, wanted: str) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise BadInput(f"{path}: mode {mode:04o} lets others in, {wanted} wanted; who may have read it may sign tokens")
    if status.st_uid not in (os.geteuid(), 0):
        raise BadInput(f"{path}: belongs to user {status.st_uid}, wanted this process's user {os.geteuid()}")
