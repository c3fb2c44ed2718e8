"""Run a command as a user without any right, from a test that runs as root.

What the command reads (the interpreter, its environment, this repository) may lie below folders that are root's own,
/root for one. A mount namespace of its own shows them to it, without a change to the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lateen.net import kernel

NOBODY = 65534
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def command(argv: Sequence[str]) -> list[str]:
    """Return the command line, for root, that runs `argv` as uid and gid 65534 in this repository."""
    return [sys.executable, "-m", "tests.fakes.ordinary_user", *argv]


def _main(argv: Sequence[str]) -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", kernel.MS_REC | kernel.MS_SLAVE)
    _show([Path(sys.base_prefix), Path(sys.prefix), REPOSITORY])
    os.chdir(REPOSITORY)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execvp(argv[0], list(argv))


def _show(paths: Sequence[Path]) -> None:
    """Make `paths` reachable for everybody, in this mount namespace."""
    closed = {path: folder for path in paths if (folder := _closed_ancestor(path))}
    if not closed:
        return
    stage = tempfile.mkdtemp(prefix="lt-stage-")
    _mount("-t", "tmpfs", "none", stage)
    for number, path in enumerate(closed):
        kept = Path(stage, str(number))
        kept.mkdir()
        _mount("--bind", str(path), str(kept))
    for folder in set(closed.values()):
        _mount("-t", "tmpfs", "-o", "mode=755", "none", str(folder))
    for number, path in enumerate(closed):
        path.mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(Path(stage, str(number))), str(path))
    _unmount(stage)


def _closed_ancestor(path: Path) -> Path | None:
    return next((folder for folder in [*reversed(path.parents), path] if not folder.stat().st_mode & 0o001), None)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _unmount(folder: str) -> None:
    subprocess.run(["umount", "--recursive", folder], check=True)
    os.rmdir(folder)


if __name__ == "__main__":
    _main(sys.argv[1:])
