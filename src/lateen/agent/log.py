"""Log lines of an agent: a constant event, the facts as fields, one line each, in logfmt.

structlog would cost every agent 6 MB and 60 ms at start (it brings rich), an eighth of all that an agent may hold.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

__all__ = ["MAX_LOG_BYTES", "Log", "format_line", "last_line", "shorten_log"]

MAX_LOG_BYTES: Final = 4 << 20  # of a log file at the start of a process, or of a look at it; then the older part goes
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log:
    """Writes lines of `level` and above to `out`; bound fields are on each of them. A full disk stops nobody."""

    def __init__(
        self,
        out: TextIO,
        *,
        level: str = "info",
        fields: Mapping[str, object] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._out = out
        self._level = _LEVELS[level]
        self._name = level
        self._fields = dict(fields or {})
        self._now = now

    def bind(self, **fields: object) -> Log:
        """Return a log whose lines carry `fields` as well."""
        return Log(self._out, level=self._name, fields={**self._fields, **fields}, now=self._now)

    def debug(self, event: str, **fields: object) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something is not as it should be; the agent goes on, degraded."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Somebody has to act."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        if _LEVELS[level] < self._level:
            return
        line = format_line(self._now(), level, event, {**self._fields, **fields})
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            self._out.write(line)
            self._out.flush()


def format_line(moment: datetime, level: str, event: str, fields: Mapping[str, object]) -> str:
    """Return one line with its end. Values that hold more than plain characters are quoted as JSON strings."""
    words = [moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), level, event]
    words += [f"{name}={_value(value)}" for name, value in fields.items()]
    return " ".join(words) + "\n"


def last_line(path: Path, *, limit_bytes: int = 2000) -> str:
    """Return the last line of a file that is not empty, cut; "" when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(file.seek(0, 2) - limit_bytes, 0))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    plain = text and all(character.isprintable() and character not in ' "=' for character in text)
    return text if plain else json.dumps(text)


def shorten_log(path: Path, *, limit_bytes: int = MAX_LOG_BYTES) -> bool:
    """Move what `path` holds to `<path>.1` when it is over the limit, and say whether it was.

    The file itself is emptied, not replaced: its writer (appending) keeps its descriptor. Lines that are written at
    that very moment may be lost. Raises nothing: a log that cannot be shortened is no reason to stop.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return False
        with open(path, "r+b") as file:
            file.seek(-limit_bytes // 2, 2)
            file.readline()  # begin with a whole line
            path.with_name(path.name + ".1").write_bytes(file.read())
            file.truncate(0)
    except OSError:
        return False
    return True
