"""Lines of JSON that rules report: bounded, written in batches by a thread, and dropped rather than waited for."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any, Final

import msgspec

__all__ = ["Logbook"]

MOST_LINES: Final = 20_000  # that wait, of one file
FLUSH_SECONDS: Final = 0.5
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)


class Logbook:
    """All files that rules write. `folder` None: no files, standard output alone."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._waiting: dict[str, deque[bytes]] = {}
        self.written = 0
        self.dropped = 0
        self.failures: dict[str, str] = {}  # file -> why it cannot be written

    def put(self, file: str, line: dict[str, Any]) -> bool:
        """Take a line; False: there was no room, and it is dropped."""
        waiting = self._waiting.setdefault(file, deque())
        if len(waiting) >= MOST_LINES:
            self.dropped += 1
            return False
        waiting.append(_ENCODER.encode(line) + b"\n")
        return True

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        for file, waiting in list(self._waiting.items()):
            if waiting:
                lines = list(waiting)
                waiting.clear()
                await asyncio.to_thread(self._write, file, lines)

    def _write(self, file: str, lines: list[bytes]) -> None:
        # Opened each time, so that whoever rotates logs may move the file away.
        try:
            if not file:
                sys.stdout.buffer.write(b"".join(lines))
                sys.stdout.buffer.flush()
            elif self._folder is None:
                raise FileNotFoundError("there is no folder for logs")
            else:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open(self._folder / file, "ab", opener=_private) as out:
                    out.write(b"".join(lines))
        except OSError as error:
            self.dropped += len(lines)
            self.failures[file] = error.strerror or str(error)
        else:
            self.written += len(lines)
            self.failures.pop(file, None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
