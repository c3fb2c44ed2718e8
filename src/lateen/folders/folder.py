"""A folder of YAML as a source of resources: pure bookkeeping; the watching is in `watch.py`.

Each file is taken as a whole or not at all: a fault anywhere in it keeps the file's last good resources in force and is
told as problems. What those are is `kept` over restarts, for a file that is found broken. Two files that name one
resource: the first by path order keeps it, the other one is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lateen.api.base import Object, Problem, ResourceKey
from lateen.api.decode import Decoded

__all__ = ["Change", "Folder", "Kept"]

EMPTY = (
    "is empty, at least one resource or a comment wanted; what it held before stays in force "
    "(remove the file to remove that)"
)


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that is new, other than before, or gone (`obj` is None)."""

    key: ResourceKey
    obj: Object | None


@dataclass(slots=True)
class _File:
    objects: dict[ResourceKey, Object] = field(default_factory=dict)  # the last good ones
    problems: tuple[Problem, ...] = ()


class Kept(Protocol):
    """Remembers what files held when they were last good."""

    def get(self, path: str) -> bytes | None: ...

    def keep(self, path: str, data: bytes, objects: Iterable[Object]) -> None: ...

    def forget(self, path: str) -> None: ...


class Folder:
    """The last good state of every file, and who owns which resource."""

    def __init__(self, decode: Callable[[bytes, str], Decoded], kept: Kept | None = None) -> None:
        """Without `kept`, a file that is broken when it is first seen has no last good state."""
        self._decode = decode
        self._kept = kept
        self._files: dict[str, _File] = {}
        self._owners: dict[ResourceKey, list[str]] = {}  # sorted paths of the files that hold it
        self._unreadable: dict[str, Problem] = {}
        # Asked after each change, so what is wrong is kept, and not looked for among all that is right.
        self._faulty: set[str] = set()  # paths of files with problems
        self._contested: set[ResourceKey] = set()  # resources that several files hold

    @property
    def files(self) -> frozenset[str]:
        return frozenset(self._files)

    def write(self, files: Mapping[str, bytes | OSError | None]) -> list[Change]:
        """Take new contents of files: bytes, None (gone), or why it could not be read. Return what changed, by key."""
        before: dict[ResourceKey, Object | None] = {}
        for path in sorted(files):
            content = files[path]
            if content is None:
                self._remove(path, before)
            elif isinstance(content, OSError):
                message = f"cannot be read: {content.strerror or content}; the last good state stays in force"
                self._unreadable[path] = Problem(path, 1, "", message)
                self._recall(path, before)
            elif not content.strip():
                # Half written, mostly: whoever writes a file in place empties it first.
                self._unreadable[path] = Problem(path, 1, "", EMPTY)
                self._recall(path, before)
            else:
                self._unreadable.pop(path, None)
                self._replace(path, content, self._decode(content, path), before)
        changes = []
        for key in sorted(before):
            now = self._winner(key)
            if now != before[key] or (now is not None and before[key] is not None and now.origin != before[key].origin):  # type: ignore[union-attr]  # both are not None here
                changes.append(Change(key, now))
        return changes

    def problems(self) -> tuple[Problem, ...]:
        """Return every fault that stands now, by file and line."""
        found: list[Problem] = [*self._unreadable.values()]
        for path in self._faulty:
            found.extend(self._files[path].problems)
        for key in self._contested:
            found.extend(self._conflicts(key, self._owners[key]))
        return tuple(sorted(found, key=lambda p: (p.file, p.line, p.field, p.message)))

    def _conflicts(self, key: ResourceKey, paths: list[str]) -> Iterable[Problem]:
        for path in paths[1:]:
            first = self._files[paths[0]].objects[key].origin
            yield (
                self._files[path]
                .objects[key]
                .problem(
                    "metadata.name", f"{key} is defined at {first} already, which stays in force; names must be unique"
                )
            )

    def _recall(self, path: str, before: dict[ResourceKey, Object | None]) -> None:
        """Have a file that is broken when it is first seen hold what it held when it was last good."""
        if self._kept is None or path in self._files or (data := self._kept.get(path)) is None:
            return
        decoded = self._decode(data, path)
        if not any(problem.level == "error" for problem in decoded.problems):
            self._take(path, self._files.setdefault(path, _File()), decoded, before)

    def _replace(self, path: str, data: bytes, decoded: Decoded, before: dict[ResourceKey, Object | None]) -> None:
        good = not any(problem.level == "error" for problem in decoded.problems)
        if not good:
            self._recall(path, before)
        file = self._files.setdefault(path, _File())
        file.problems = decoded.problems
        self._faulty.discard(path)
        if decoded.problems:
            self._faulty.add(path)
        if good:
            self._take(path, file, decoded, before)
            if self._kept is not None:
                self._kept.keep(path, data, decoded.objects)

    def _take(self, path: str, file: _File, decoded: Decoded, before: dict[ResourceKey, Object | None]) -> None:
        objects = {obj.key: obj for obj in decoded.objects}
        for key in {*file.objects, *objects}:
            before.setdefault(key, self._winner(key))
        self._disown(path, file.objects)
        file.objects = objects
        for key in objects:
            owners = self._owners.setdefault(key, [])
            owners.append(path)
            owners.sort()
            if len(owners) > 1:
                self._contested.add(key)

    def _remove(self, path: str, before: dict[ResourceKey, Object | None]) -> None:
        self._unreadable.pop(path, None)
        if self._kept is not None:
            self._kept.forget(path)
        file = self._files.get(path)
        if file is None:
            return
        for key in file.objects:
            before.setdefault(key, self._winner(key))
        self._disown(path, file.objects)
        self._faulty.discard(path)
        del self._files[path]

    def _disown(self, path: str, keys: Iterable[ResourceKey]) -> None:
        for key in keys:
            owners = self._owners[key]
            owners.remove(path)
            if len(owners) < 2:
                self._contested.discard(key)
            if not owners:
                del self._owners[key]

    def _winner(self, key: ResourceKey) -> Object | None:
        owners = self._owners.get(key)
        return self._files[owners[0]].objects[key] if owners else None
