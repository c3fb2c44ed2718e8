"""The folder of adapters of one's own: code that runs, so nobody else may write it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["read_folder"]

LONGEST_FILE: Final = 1 << 20  # bytes


def read_folder(folder: Path) -> dict[str, str]:
    """Return the texts of the files in it, by path. Raises: OSError, UnicodeError; then nothing of it is to be run."""
    found: dict[str, str] = {}
    for path in (folder, *sorted(folder.glob("*.py"))):
        info = path.stat()
        if info.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(info.st_mode) & 0o022:
            raise OSError(f"{path} may be written by others than its owner, and is not run")
        if path.is_file():
            if info.st_size > LONGEST_FILE:
                raise OSError(f"{path} has more than {LONGEST_FILE >> 20} MiB")
            found[str(path)] = path.read_text()
    return found
