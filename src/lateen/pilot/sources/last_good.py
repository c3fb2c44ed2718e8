"""What each file of configuration held when it was last good, kept over restarts of the control plane.

While it runs, a file that breaks keeps its last good resources in force (`folder`). Without this a restart forgot them:
the policies of a file that somebody was just editing were in force no more, and what they forbid was open to all.

One copy a file in a folder of the state, 0600, under a name made of both hashes: `<path>-<content>`. Documents
with Secrets are left out of it: keys are in their own files alone, and a proxy without its Secret refuses connections
by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import structlog

from lateen.api.base import Object
from lateen.api.decode import decode_documents

__all__ = ["LastGood"]

_DIGEST_BYTES = 16
_DOCUMENTS = re.compile(rb"^(?=---(?:\s|$))", re.MULTILINE)


class LastGood:
    """The copies in one folder. Does not raise: one that cannot be kept is told, and misses after a restart."""

    def __init__(self, folder: Path, *, log: Any = None) -> None:
        self._folder = folder
        self._log = structlog.get_logger(__name__) if log is None else log
        self._names: dict[str, str] = {}  # hash of a path -> name of its copy
        with contextlib.suppress(OSError):  # not there yet; or told when something is to be kept
            for name in os.listdir(folder):
                of_path, dash, _ = name.partition("-")
                if dash:
                    self._names[of_path] = name

    def get(self, path: str) -> bytes | None:
        """Return what a file held when it was last good, None where that is not known."""
        name = self._names.get(_digest(path.encode()))
        if name is None:
            return None
        try:
            data = (self._folder / name).read_bytes()
        except OSError as error:
            self._log.error("last good state not read", file=path, reason=str(error))
            return None
        # Half of a copy is none: it is written without waiting for the disk.
        return data if name.partition("-")[2] == _digest(data) else None

    def keep(self, path: str, data: bytes, objects: Iterable[Object]) -> None:
        """Take `data`, which is good and says these resources."""
        if any(obj.key.kind == "Secret" for obj in objects):
            without = _without_secrets(data)
            if without is None:
                self.forget(path)
                return
            data = without
        of_path = _digest(path.encode())
        name = f"{of_path}-{_digest(data)}"
        before = self._names.get(of_path)
        if before == name:
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            temporary = self._folder / f".{of_path}"
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            os.replace(temporary, self._folder / name)
        except OSError as error:
            self._log.error("last good state not kept", file=path, reason=str(error))
            return
        self._names[of_path] = name
        if before is not None:
            (self._folder / before).unlink(missing_ok=True)

    def forget(self, path: str) -> None:
        """A file is gone, and what it held with it."""
        name = self._names.pop(_digest(path.encode()), None)
        if name is not None:
            (self._folder / name).unlink(missing_ok=True)

    def only(self, paths: Iterable[str]) -> None:
        """Forget what was kept of all other files: they went while nobody looked."""
        here = {_digest(path.encode()) for path in paths}
        for of_path in self._names.keys() - here:
            (self._folder / self._names.pop(of_path)).unlink(missing_ok=True)


def _without_secrets(data: bytes) -> bytes | None:
    """Return a good file with empty lines for each document that holds a Secret; None when nothing else is in it.

    A document begins where a line begins with `---`: nothing else may stand there (YAML 1.2.2, section 9.1.2).
    """
    pieces = []
    others = 0
    for piece in _DOCUMENTS.split(data):
        decoded = decode_documents(piece, "")
        secret = any(obj.key.kind == "Secret" for obj in decoded.objects)
        if any(problem.level == "error" for problem in decoded.problems):
            return None  # it was good as a whole: not cut where it should be
        pieces.append(b"\n" * piece.count(b"\n") if secret else piece)
        others += 0 if secret else len(decoded.objects)
    return b"".join(pieces) if others else None


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
