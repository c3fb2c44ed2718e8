"""Which process is meant: a pid is used again, a pid with its start time is not."""

from __future__ import annotations

__all__ = ["start_ticks"]


def start_ticks(pid: int) -> int | None:
    """Return when process `pid` started (field 22 of /proc/PID/stat), None when it is no more or only a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
