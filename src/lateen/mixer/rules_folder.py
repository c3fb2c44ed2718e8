"""A folder of rules for a Mixer that stands alone: watched, each file's last good rules in force."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from lateen.api.base import Object, Problem, ResourceKey
from lateen.api.decode import decode_documents
from lateen.errors import BadInput
from lateen.folders.folder import Folder
from lateen.folders.watch import read_changes, scan, watch_folder

__all__ = ["RULE", "RulesFolder"]

RULE: Final = "Rule"


class RulesFolder:
    """The rules that are right, and what is wrong with the others."""

    def __init__(self, path: Path) -> None:
        """Reads all of it. Raises `BadInput` for what is no folder."""
        if not path.is_dir():
            raise BadInput(f"{path} is not a folder; --rules wants the folder of the rules' YAML")
        self._path = path
        self._folder = Folder(decode_documents)
        self._seen = scan(path)
        self._objects: dict[ResourceKey, Object] = {}
        self._missing: OSError | None = None
        self._take(read_changes({}, self._seen))

    def objects(self) -> list[Object]:
        """Return the rules; whatever else is in the folder is passed over."""
        return [obj for key, obj in sorted(self._objects.items()) if key.kind == RULE]

    def problems(self) -> list[Problem]:
        found = list(self._folder.problems())
        if self._missing is not None:
            message = f"cannot be read: {self._missing.strerror}; what was read last stays in force"
            found.append(Problem(str(self._path), 1, "", message))
        return found

    async def changes(self) -> AsyncIterator[None]:
        """Yield after each change, until cancelled."""
        async for files in watch_folder(self._path, self._seen, self._note_missing):
            self._take(files)
            yield

    def _note_missing(self, error: OSError | None) -> None:
        self._missing = error

    def _take(self, files: Mapping[str, bytes | OSError | None]) -> None:
        for change in self._folder.write(files):
            if change.obj is None:
                self._objects.pop(change.key, None)
            else:
                self._objects[change.key] = change.obj
