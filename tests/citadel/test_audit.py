"""The audit trail: kept over restarts, bounded, honest about gaps."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lateen.citadel.audit import AuditEntry, AuditLog, read_audit


def entry(number: int, **fields: Any) -> AuditEntry:
    return AuditEntry(time="2026-06-01T12:00:00Z", event="issued", serial=f"{number:x}", **fields)


def serials(folder: Path) -> list[int]:
    return [int(item.serial, 16) for item in read_audit(folder)]


def test_survives_restarts(tmp_path: Path) -> None:
    for start in range(3):
        log = AuditLog(tmp_path)
        log.append(entry(2 * start))
        log.append(entry(2 * start + 1))
        log.close()
    assert serials(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


def test_fields_come_back(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    written = entry(1, identity="spiffe://a/ns/b/sa/c", source="local-trust", not_after="x", reason='"\n\0')
    log.append(written)
    assert read_audit(tmp_path) == [written]
    assert (tmp_path / "audit.jsonl").read_bytes().count(b"\n") == 1


def test_bounded_by_rotation(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_bytes=1000, keep=3)
    for number in range(500):
        log.append(entry(number))
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"]
    assert all(path.stat().st_size <= 1000 for path in files)
    kept = serials(tmp_path)
    assert kept == list(range(kept[0], 500))
    assert len(kept) > 30


def test_bounded_without_old_files(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_bytes=300, keep=0)
    for number in range(50):
        log.append(entry(number))
    assert [path.name for path in tmp_path.iterdir()] == ["audit.jsonl"]
    assert serials(tmp_path)[-1] == 49


def test_long_texts_are_cut(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.append(entry(1, reason="x" * 100_000))
    assert (tmp_path / "audit.jsonl").stat().st_size < 1000


def test_a_torn_line_swallows_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.append(entry(1))
    log.close()
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"time":"2026-06')  # as a crash would leave it
    AuditLog(tmp_path).append(entry(2))
    assert serials(tmp_path) == [1, 2]


def test_a_full_disk_is_told_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path)
    log.append(entry(1))

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(os, "write", full)
        log.append(entry(2))
        log.append(entry(3))
    assert log.lost == 2
    assert [line["event"] for line in lines] == ["audit line lost"] * 2
    log.append(entry(4))
    log.append(entry(5))
    assert [(item.serial, item.lost_before) for item in read_audit(tmp_path)] == [("1", 0), ("4", 2), ("5", 0)]
