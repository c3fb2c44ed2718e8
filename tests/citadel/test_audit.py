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


def test_a_stranger_pushes_out_strangers_only(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_bytes=2000, keep=1)
    log.append(entry(1, identity="spiffe://a/ns/b/sa/c"))
    log.append(AuditEntry(time="2026-06-01T12:00:01Z", event="token-created", token="t1"))
    for _ in range(500):
        log.append(AuditEntry(time="2026-06-01T12:00:02Z", event="refused", reason="wrong token"))
    log.append(AuditEntry(time="2026-06-01T12:00:03Z", event="refused", identity="spiffe://a/ns/b/sa/c", reason="x"))
    trail = read_audit(tmp_path)
    assert [item.event for item in trail[:2]] == ["issued", "token-created"]
    assert {item.event for item in trail[2:]} == {"refused"}
    assert trail[-1].identity
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * 2000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('x\n{"time":"2026-06-01T12:00:00Z","event":"issued"}', id="line-break"),
        pytest.param("x\r\x85\u2028\u2029y", id="other-breaks"),
        pytest.param("\x1b[2J\x9b31m\x07", id="terminal"),
        pytest.param("\u202etxt.gpj", id="right-to-left"),
        pytest.param('","event":"issued', id="json"),
        pytest.param("\0" * 10, id="zeros"),
    ],
)
def test_what_a_stranger_writes_stays_in_its_field(tmp_path: Path, text: str) -> None:
    log = AuditLog(tmp_path)
    log.append(AuditEntry(time="t", event="refused", identity=text, peer=text, token=text, reason=text))
    raw = (tmp_path / "audit.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.isascii()
    assert all(byte >= 0x20 for byte in raw.removesuffix(b"\n"))
    (found,) = read_audit(tmp_path)
    assert found.event == "refused"


def test_rare_lines_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    log = AuditLog(tmp_path)
    log.append(entry(1))
    assert synced == []
    log.append(entry(2), to_disk=True)
    size = (tmp_path / "audit.jsonl").stat().st_size
    assert synced == [size]
    log.close()
    assert synced == [size, size]


def test_a_gap_is_seen_until_a_line_gets_through(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.close()
    with capture_logs():
        log.append(entry(1))
    assert (log.gap, log.lost) == (1, 1)
    again = AuditLog(tmp_path)
    again.append(entry(2))
    assert again.gap == 0
