"""The audit trail of the authority: one line of JSON for every certificate issued or refused, kept over restarts.

Appended to `audit.jsonl`; at `max_bytes` that becomes `audit.jsonl.1`, the one before `audit.jsonl.2` and so on, and
the oldest beyond `keep` is deleted, so the trail is bounded. A line is in the kernel's hands when `append` returns (it
survives the process, not a power cut). When it cannot be written, issuing goes on (a full disk must not end the mesh
as certificates run out), the loss is logged and counted, and the next line that gets through tells how many were lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

__all__ = ["AuditEntry", "AuditLog", "audit_time", "read_audit"]

FILE_NAME = "audit.jsonl"
MAX_BYTES = 10 * 1024 * 1024  # about 40,000 lines
KEEP = 4  # full files beside the current one

_MAX_TEXT = 300  # of what a stranger may have written


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One decision. Times are RFC 3339 in UTC."""

    time: str
    event: str  # "issued" | "refused"
    identity: str = ""  # SPIFFE ID; "" when nobody was recognised
    source: str = ""  # how the caller was recognised: "local-trust", ...
    serial: str = ""  # hexadecimal
    not_after: str = ""
    reason: str = ""  # why refused
    lost_before: int = 0  # lines before this one that could not be written


class AuditLog:
    """Appends to the trail in one folder. For one process and one thread."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP, log: Any = None) -> None:
        """Raises `OSError` when the file cannot be opened for appending."""
        self.path = folder / FILE_NAME
        self.lost = 0  # lines that could not be written, since this process started
        self._max_bytes = max_bytes
        self._keep = keep
        self._log = structlog.get_logger() if log is None else log
        self._unreported = 0
        self._descriptor = -1
        self._size = 0
        self._open()

    def append(self, entry: AuditEntry) -> None:
        """Write one line. Does not raise: what cannot be written is logged and counted."""
        entry = msgspec.structs.replace(
            entry, reason=_cut(entry.reason), identity=_cut(entry.identity), lost_before=self._unreported
        )
        line = msgspec.json.encode(entry) + b"\n"
        try:
            if self._size and self._size + len(line) > self._max_bytes:
                self._rotate()
            self._write(line)
        except OSError as error:
            self.lost += 1
            self._unreported += 1
            self._log.error("audit line lost", path=str(self.path), reason=str(error), lost=self.lost)
        else:
            self._unreported = 0

    def close(self) -> None:
        """Close the file. Appending afterwards counts as lost."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _write(self, line: bytes) -> None:
        # A crash or a full disk may have cut the last line short; it must not swallow this one.
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        self._size += written
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")

    def _rotate(self) -> None:
        if self._keep:
            for number in range(self._keep - 1, 0, -1):
                _move(_numbered(self.path, number), _numbered(self.path, number + 1))
            _move(self.path, _numbered(self.path, 1))
        else:
            self.path.unlink(missing_ok=True)
        self.close()
        self._open()


def read_audit(folder: Path) -> list[AuditEntry]:
    """Return the whole trail in a folder, oldest first. Lines that a crash cut short are left out."""
    current = folder / FILE_NAME
    numbered = {int(path.suffix[1:]): path for path in folder.glob(f"{FILE_NAME}.*") if path.suffix[1:].isdecimal()}
    entries: list[AuditEntry] = []
    for path in [*(numbered[number] for number in sorted(numbered, reverse=True)), current]:
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                entries.append(_decode(line))
            except msgspec.DecodeError:
                continue
    return entries


def audit_time(moment: datetime) -> str:
    """Return a moment as it stands in the trail."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


_decode: Callable[[bytes], AuditEntry] = msgspec.json.Decoder(AuditEntry).decode


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _move(old: Path, new: Path) -> None:
    if old.exists():
        os.replace(old, new)
