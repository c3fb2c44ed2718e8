"""Which roots an external authority must lead to: those of a file, else those it named when it was first asked.

A root is never taken from an answer to an order. Where no file pins it, the authority is asked once, over its verified
channel, and what it said is kept in the state folder: an authority that later leads to another root is not believed,
since every workload that runs would lose every other.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lateen.citadel.external.check import MAX_CHAIN_BYTES, parse_roots
from lateen.citadel.external.interface import ExternalAuthority
from lateen.errors import BadInput, Unavailable
from lateen.wire.files import write_atomically

__all__ = ["REMEMBERED", "choose_roots", "pem_of_all"]

REMEMBERED: Final = "root-cert.pem"  # in the authority's folder of the state folder


async def choose_roots(
    authority: ExternalAuthority, *, name: str, file: Path | None, folder: Path, now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return the roots. Raises `BadInput`, naming the file; `Unavailable` when only the authority could tell."""
    if file is not None:
        return _read(file, now)
    remembered = folder / REMEMBERED
    if remembered.exists():
        return _read(remembered, now)
    pem = await authority.roots()
    if pem is None:
        raise BadInput(f"{name} does not tell its root: name a file of PEM in the field roots of its configuration")
    try:
        roots = parse_roots(pem, now)
    except BadInput as error:
        raise Unavailable(f"what {name} calls its root cannot be trusted: {error}") from error
    write_atomically(remembered, pem_of_all(roots))
    return roots


def pem_of_all(certificates: tuple[x509.Certificate, ...]) -> bytes:
    """Return certificates in PEM, one after the other."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _read(path: Path, now: datetime) -> tuple[x509.Certificate, ...]:
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_CHAIN_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return parse_roots(pem, now)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
