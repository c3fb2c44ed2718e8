"""The audit trail of the authority: one line of JSON for every certificate issued or refused, kept over restarts.

Appended to `audit.jsonl`; at `max_bytes` that becomes `audit.jsonl.1`, the one before `audit.jsonl.2` and so on, and
the oldest beyond `keep` is deleted, so the trail is bounded. What was refused to callers whom nobody recognised goes to
`audit-strangers.jsonl`, bounded in the same way: a stranger who is refused a million times pushes out other strangers'
lines, never what was issued.

A line is in the kernel's hands when `append` returns (it survives the process, not a power cut); it is on the disk
before `append` returns for what is rare and grants much (join tokens), and otherwise when its file is full or closed.
When it cannot be written, issuing goes on (a full disk must not end the mesh as certificates run out), the loss is
logged, counted and a warning of `lateen status`, and the next line that gets through tells how many were lost.
Lines are plain ASCII, whatever a stranger wrote: no line break, no control character, no letter that turns text around.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

__all__ = ["AuditEntry", "AuditLog", "audit_time", "read_audit"]

FILE_NAME = "audit.jsonl"
STRANGERS_NAME = "audit-strangers.jsonl"
MAX_BYTES = 10 * 1024 * 1024  # about 40,000 lines
KEEP = 4  # full files beside the current one

_MAX_TEXT = 300  # of what a stranger may have written


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One decision. Times are RFC 3339 in UTC."""

    time: str
    event: str  # "issued" | "refused" | "token-created" | "token-revoked" | "turned-away" (a connection)
    identity: str = ""  # SPIFFE ID; "" when nobody was recognised
    source: str = ""  # how the caller was recognised: "local-trust", "join-token", "client-certificate", ...
    peer: str = ""  # where the call came from: "uid=1000,pid=4711", "10.0.0.2:50312"
    token: str = ""  # name of the join token, which is no secret
    kind: str = ""  # "jwt" of a JWT-SVID; "" of a certificate
    audience: str = ""  # of a JWT-SVID: for whom it is, with blanks between
    serial: str = ""  # hexadecimal; of a JWT-SVID its jti
    not_after: str = ""
    reason: str = ""  # why refused
    lost_before: int = 0  # lines before this one that could not be written

    @property
    def of_stranger(self) -> bool:
        """Whether it is about somebody whom nobody recognised."""
        return self.event in ("refused", "turned-away") and not self.identity


class AuditLog:
    """Appends to the trail in one folder. For one process and one thread."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP, log: Any = None) -> None:
        """Raises `OSError` when the file cannot be opened for appending."""
        self.path = folder / FILE_NAME
        self.lost = 0  # lines that could not be written, since this process started
        self._log = structlog.get_logger() if log is None else log
        self._unreported = 0
        self._trail = _Trail(self.path, max_bytes, keep)
        self._trail.open()
        self._strangers = _Trail(folder / STRANGERS_NAME, max_bytes, keep)  # made by the first of them

    @property
    def gap(self) -> int:
        """How many of the latest lines are missing: 0 as soon as one is written again."""
        return self._unreported

    def append(self, entry: AuditEntry, *, to_disk: bool = False) -> None:
        """Write one line; with `to_disk`, return when a power cut cannot take it any more.

        Does not raise: what cannot be written is logged and counted.
        """
        trail = self._strangers if entry.of_stranger else self._trail
        entry = msgspec.structs.replace(
            entry,
            **{field: _plain(getattr(entry, field)) for field in ("identity", "peer", "token", "audience", "reason")},
            lost_before=self._unreported,
        )
        try:
            trail.write(msgspec.json.encode(entry) + b"\n")
            if to_disk:
                trail.sync()
        except OSError as error:
            self.lost += 1
            self._unreported += 1
            self._log.error("audit line lost", path=str(trail.path), reason=str(error), lost=self.lost)
        else:
            self._unreported = 0

    def close(self) -> None:
        """Close the files. Appending afterwards counts as lost."""
        self._trail.close()
        self._strangers.close()


class _Trail:
    """One file and those before it. Methods raise `OSError`."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = -1
        self._size = 0
        self._closed = False

    def open(self) -> None:
        if self._closed:
            raise OSError("the trail is closed")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def write(self, line: bytes) -> None:
        if self._descriptor < 0:
            self.open()
        if self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        # A crash or a full disk may have cut the last line short; it must not swallow this one.
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        self._size += written
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        self._closed = True
        self._set_aside()

    def _rotate(self) -> None:
        if self._keep:
            for number in range(self._keep - 1, 0, -1):
                _move(_numbered(self.path, number), _numbered(self.path, number + 1))
            _move(self.path, _numbered(self.path, 1))
        else:
            self.path.unlink(missing_ok=True)
        self._set_aside()
        self.open()

    def _set_aside(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


def read_audit(folder: Path) -> list[AuditEntry]:
    """Return the whole trail in a folder, oldest first. Lines that a crash cut short are left out."""
    trails = (_read_trail(folder / name) for name in (FILE_NAME, STRANGERS_NAME))
    return list(heapq.merge(*trails, key=lambda entry: entry.time))


def audit_time(moment: datetime) -> str:
    """Return a moment as it stands in the trail."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_trail(current: Path) -> list[AuditEntry]:
    older = current.parent.glob(f"{current.name}.*")
    numbered = {int(path.suffix[1:]): path for path in older if path.suffix[1:].isdecimal()}
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


_decode: Callable[[bytes], AuditEntry] = msgspec.json.Decoder(AuditEntry).decode


def _plain(text: str) -> str:
    cut = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
    return cut.encode("ascii", "backslashreplace").decode("ascii")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _move(old: Path, new: Path) -> None:
    if old.exists():
        os.replace(old, new)
