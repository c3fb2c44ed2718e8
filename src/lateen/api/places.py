"""Places inside a document: paths as people read them, and the line each stands on.

`spec.http[0].route[1].weight`; a key that is not a plain word stands in brackets, `metadata.labels[app.test/name]`,
and in quotes too if its own brackets would mislead, `["a]"]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

__all__ = [
    "Lines",
    "Place",
    "Tree",
    "join_path",
    "moved_tree",
    "nearest_line",
    "path_text",
    "subtree",
    "tree_line",
]

# The place of a value: that of what holds it, and its key or position there. None is the document itself.
Place: TypeAlias = "tuple[Place, str | int] | None"

# Lines of a document: of a scalar its own; of a map or a list also those of its values.
Tree: TypeAlias = "int | tuple[int, dict[str, Tree] | list[Tree]]"

_JSON: Final = json.JSONDecoder()
_BRACKETS: Final = {"[": 1, "]": -1}
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


def join_path(path: str, key: str | int) -> str:
    """Return the path of `key` below `path`."""
    if isinstance(key, str) and _WORD.match(key):
        return f"{path}.{key}" if path else key
    if isinstance(key, str) and not _stands_bare(key):
        return f"{path}[{json.dumps(key)}]"
    return f"{path}[{key}]"


def _stands_bare(key: str) -> bool:
    """True when the brackets of `key` are in pairs, so that the one behind it is found."""
    depth = 0
    for char in key:
        depth += _BRACKETS.get(char, 0)
        if depth < 0:
            return False
    return depth == 0 and not key.startswith('"')


def path_text(place: Place) -> str:
    """Return a place as text."""
    keys = []
    while place is not None:
        place, key = place
        keys.append(key)
    path = ""
    for key in reversed(keys):
        path = join_path(path, key)
    return path


def tree_line(tree: Tree) -> int:
    """Return the line on which a value begins (that of its key, where it has one)."""
    return tree if isinstance(tree, int) else tree[0]


def subtree(tree: Tree, key: str | int) -> Tree:
    """Return the lines of one value of a map or a list; of the whole where it has none of its own."""
    if isinstance(tree, int):
        return tree
    line, children = tree
    if isinstance(children, dict):
        return children.get(str(key), line)
    return children[key] if isinstance(key, int) and key < len(children) else line


def moved_tree(tree: Tree, by: int) -> Tree:
    """Return the lines of a text that stands inside another one, `by` lines further down."""
    if isinstance(tree, int):
        return tree + by
    line, children = tree
    if isinstance(children, dict):
        return (line + by, {key: moved_tree(child, by) for key, child in children.items()})
    return (line + by, [moved_tree(child, by) for child in children])


def nearest_line(lines: Mapping[str, int], path: str, default: int) -> int:
    """Return the line of `path`, or of the nearest field around it that has one, else `default`."""
    while path:
        if path in lines:
            return lines[path]
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return default


class Lines(Mapping[str, int]):
    """Field path -> line, read from a tree of lines when asked: a document's paths are never written out."""

    __slots__ = ("_tree",)

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def __getitem__(self, path: str) -> int:
        tree = self._tree
        for step in _steps(path):
            if isinstance(tree, int):
                raise KeyError(path)
            children = tree[1]
            if isinstance(children, dict):
                found = children.get(step)
            else:
                position = int(step) if step.isdecimal() and len(step) < 10 else -1
                found = children[position] if 0 <= position < len(children) else None
            if found is None:
                raise KeyError(path)
            tree = found
        return tree_line(tree)

    def __iter__(self) -> Iterator[str]:
        return (path for path, _ in _walk(self._tree, ""))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _steps(path: str) -> Iterator[str]:
    """Yield the keys of a path; brackets inside brackets belong to the key. What is no path gives keys nobody has."""
    at = 0
    while at < len(path):
        if path.startswith('["', at):
            try:
                key, end = _JSON.raw_decode(path, at + 1)
            except ValueError:
                key, end = path[at:], len(path)
            yield str(key)
            at = end + 1
        elif path[at] == "[":
            depth = 0
            end = at
            while end < len(path):
                depth += _BRACKETS.get(path[end], 0)
                end += 1
                if depth == 0:
                    break
            yield path[at + 1 : end - 1] if depth == 0 else path[at:]
            at = end
        else:
            at += path[at] == "."
            ends = [end for end in (path.find(".", at), path.find("[", at)) if end >= 0]
            end = min(ends, default=len(path))
            yield path[at:end]
            at = end


def _walk(tree: Tree, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(tree, int):
        return
    children = tree[1]
    pairs: Iterator[tuple[str | int, Tree]] = (
        iter(children.items()) if isinstance(children, dict) else enumerate(children)
    )
    for key, child in pairs:
        below = join_path(path, key)
        yield below, tree_line(child)
        yield from _walk(child, below)
