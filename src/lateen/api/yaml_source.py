"""YAML text to plain values with the line of each, within limits. Nothing is built that was not paid for.

In:  the bytes of one file. Out: its documents, and what is wrong with the text as `(line, path, message)`.
Rules: YAML 1.1 as Kubernetes' tools read it (`yes` and `on` are booleans, `0644` is octal), but for what only
surprises: dates, base-60 numbers, `1_000` and `.inf` stay text, a key is always text. Merge keys (`<<`) are resolved.

The parser's events are read one by one: libyaml keeps its place in a stack of its own, so neither deep nor circular
text can exhaust ours, and aliases are counted for what they stand for before they are followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import yaml

from lateen.api.places import Tree, join_path, tree_line

__all__ = ["MAX_DEPTH", "MAX_FAULTS", "MAX_FILE_BYTES", "MAX_KEYS", "MAX_VALUES", "Document", "Fault", "parse_yaml"]

# Kubernetes refuses objects above 1.5 MiB (etcd); a file may hold several, but one of this size is not configuration.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
# Values of one file, aliases counted as often as they are used. 3,000 ordinary resources; about 1 s to read.
MAX_VALUES: Final = 200_000
# Maps and lists inside each other. An EnvoyFilter's deepest patch is at about 25.
MAX_DEPTH: Final = 64
# Faults of one file that are told; who reads on after so many?
MAX_FAULTS: Final = 100
# Keys of one map. Kubernetes' annotations end at 256 kB in all.
MAX_KEYS: Final = 10_000

_TAG: Final = "tag:yaml.org,2002:"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {
    spelling: value
    for word, value in (("true", True), ("yes", True), ("on", True), ("false", False), ("no", False), ("off", False))
    for spelling in (word, word.capitalize(), word.upper())
}
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})\Z")
_OCTAL: Final = re.compile(r"[-+]?0o?[0-7]{1,21}\Z")
_HEX: Final = re.compile(r"[-+]?0x[0-9a-fA-F]{1,16}\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?\Z")
_TAGGED: Final[dict[str, type | tuple[type, ...]]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "null": type(None),
}
_NUMBER_START: Final = frozenset("0123456789+-.")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file. `value` is made of dict, list, str, int, float, bool and None."""

    value: Any
    tree: Tree
    line: int


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong at one place of the text."""

    line: int
    path: str
    message: str


@dataclass(slots=True)
class _Value:
    value: Any
    tree: Tree
    size: int  # values in it, itself included, aliases expanded
    depth: int  # of maps and lists, itself included


@dataclass(slots=True)
class _Frame:
    """A map or a list that is still open."""

    value: Any  # dict or list
    children: Any  # trees: dict or list
    line: int
    anchor: str | None
    key: str | None = None  # whose value comes next
    key_line: int = 0
    doubled: bool = False  # that key was there already: its value is read over
    merges: list[tuple[_Value, int]] | None = None  # with the line of the `<<`
    size: int = 1
    depth: int = 1


class _Stop(Exception):
    """Reading cannot go on."""

    def __init__(self, line: int, message: str, path: str = "") -> None:
        super().__init__(message)
        self.fault = Fault(line, path, message)


_MERGE: Final = "<<"
_MERGING: Final = "\0merge"  # a pending key that no text can be: YAML has no NUL


def parse_yaml(data: bytes) -> tuple[tuple[Document, ...], tuple[Fault, ...]]:
    """Return the documents before the first fault of syntax or limit, and every fault that was met.

    Empty documents are left out. Does not raise.
    """
    if len(data) > MAX_FILE_BYTES:
        message = f"file is too large: {len(data)} bytes or more, at most {MAX_FILE_BYTES} are read"
        return (), (Fault(1, "", message),)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return (), (Fault(line, "", f"is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}"),)
    reader = _Reader()
    try:
        reader.read(text)
    except _Stop as stop:
        reader.faults.append(stop.fault)
    except yaml.MarkedYAMLError as error:
        reader.faults.append(_syntax_fault(error, text))
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        reader.faults.append(Fault(line, "", f"is not YAML: {getattr(error, 'reason', None) or error}"))
    return tuple(reader.documents), tuple(reader.faults)


def _syntax_fault(error: yaml.MarkedYAMLError, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    # What is missing at the end is told on the last line that is there, not on the empty one behind it.
    line = min(mark.line, text.count("\n", 0, len(text.rstrip()))) + 1 if mark is not None else 1
    message = f"is not YAML: {error.problem or error}"
    if error.context:
        since = f" (line {error.context_mark.line + 1})" if error.context_mark is not None else ""
        message += f", {error.context}{since}"
    return Fault(line, "", message)


class _Reader:
    """Builds values from events; one instance a file."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.faults: list[Fault] = []
        self._frames: list[_Frame] = []
        self._anchors: dict[str, _Value | None] = {}  # None while the anchored value is still open
        self._count = 0
        self._root: _Value | None = None

    def read(self, text: str) -> None:
        # By the exact type: a large file has 50,000 events, and each test of a kind would be paid by all after it.
        take: dict[type[yaml.Event], Callable[[Any], None]] = {
            yaml.ScalarEvent: self._on_scalar,
            yaml.AliasEvent: self._on_alias,
            yaml.MappingStartEvent: lambda event: self._open({}, {}, event, "map"),
            yaml.SequenceStartEvent: lambda event: self._open([], [], event, "seq"),
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.DocumentStartEvent: self._on_document,
            yaml.DocumentEndEvent: self._on_document_end,
        }
        loader = yaml.CSafeLoader(text)
        try:
            next_event = loader.get_event
            while (event := next_event()) is not None:
                known = take.get(type(event))
                if known is not None:
                    known(event)
        finally:
            loader.dispose()

    def _on_document(self, _: yaml.Event) -> None:
        self._anchors = {}
        self._root = None

    def _on_document_end(self, _: yaml.Event) -> None:
        root = self._root
        if root is not None and root.value is not None:
            self.documents.append(Document(root.value, root.tree, tree_line(root.tree)))

    # ---- what comes in

    def _on_scalar(self, event: yaml.ScalarEvent) -> None:
        line = _line(event)
        self._pay(1, line)
        plain = event.implicit[0] and event.tag is None
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.value, dict):
            if event.anchor is not None:
                self._anchors[event.anchor] = _Value(event.value, line, 1, 0)
            self._on_key(frame, event.value, line, merge=plain and event.value == _MERGE)
            return
        value = _plain(event.value) if plain else self._tagged(event, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Value(value, line, 1, 0)
        self._put(value, line, 1, 0)

    def _on_alias(self, event: yaml.AliasEvent) -> None:
        line = _line(event)
        if event.anchor not in self._anchors:
            raise _Stop(line, f"alias *{event.anchor} has no anchor &{event.anchor} before it", self._path())
        anchored = self._anchors[event.anchor]
        if anchored is None:
            raise _Stop(line, f"alias *{event.anchor} stands inside its own anchor", self._path())
        self._pay(anchored.size, line)
        if len(self._frames) + anchored.depth > MAX_DEPTH:
            raise _Stop(line, f"is nested too deep: more than {MAX_DEPTH} maps and lists in each other")
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.value, dict):
            self._on_key(frame, anchored.value, line, merge=False)
            return
        tree = anchored.tree
        moved = line if isinstance(tree, int) else (line, tree[1])
        self._put(anchored.value, moved, anchored.size, anchored.depth)

    def _on_key(self, frame: _Frame, key: Any, line: int, *, merge: bool) -> None:
        if not isinstance(key, str):
            raise _Stop(line, "a key must be text, not a list or a map", self._path())
        frame.key_line = line
        if merge:
            frame.key = _MERGING
            return
        frame.key = key
        frame.doubled = key in frame.value
        if frame.doubled:
            first = tree_line(frame.children[key])
            self._tell(Fault(line, self._path(), f"is given twice, first on line {first}"))
        elif len(frame.value) >= MAX_KEYS:
            raise _Stop(line, f"a map has more than {MAX_KEYS} keys", self._path())

    def _open(self, value: Any, children: Any, event: Any, tag: str) -> None:
        line = _line(event)
        self._pay(1, line)
        if event.tag not in (None, "!", _TAG + tag):
            self._tell(Fault(line, self._path(), f"tag {event.tag} is not read"))
        if self._frames:
            frame = self._frames[-1]
            if isinstance(frame.value, dict):
                if frame.key is None:
                    raise _Stop(line, "a key must be text, not a list or a map", self._path())
                line = frame.key_line
        if len(self._frames) >= MAX_DEPTH:
            raise _Stop(line, f"is nested too deep: more than {MAX_DEPTH} maps and lists in each other")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._frames.append(_Frame(value, children, line, event.anchor))

    def _close(self, _: yaml.Event) -> None:
        frame = self._frames.pop()
        for merged, line in frame.merges or ():
            self._merge(frame, merged, line)
        tree = (frame.line, frame.children)
        if frame.anchor is not None:
            self._anchors[frame.anchor] = _Value(frame.value, tree, frame.size, frame.depth)
        self._put(frame.value, tree, frame.size, frame.depth)

    # ---- where it goes

    def _put(self, value: Any, tree: Tree, size: int, depth: int) -> None:
        """Put a finished value where it belongs; see `_Value` for what is told of it."""
        if not self._frames:
            self._root = _Value(value, tree, size, depth)
            return
        frame = self._frames[-1]
        frame.size += size
        if depth >= frame.depth:
            frame.depth = depth + 1
        into = frame.value
        if isinstance(into, list):
            into.append(value)
            frame.children.append(tree)
            return
        key, frame.key = frame.key, None
        if key == _MERGING:
            if frame.merges is None:
                frame.merges = []
            frame.merges.append((_Value(value, tree, size, depth), frame.key_line))
        elif key is not None and not frame.doubled:
            into[key] = value
            # The line of a field is that of its key; the value may begin on the next one.
            frame.children[key] = frame.key_line if isinstance(tree, int) else (frame.key_line, tree[1])
        frame.doubled = False

    def _merge(self, frame: _Frame, merged: _Value, line: int) -> None:
        """Take over what the map itself does not say; of several maps the first one's word stands."""
        several = isinstance(merged.value, list)
        maps = merged.value if several else [merged.value]
        trees = merged.tree[1] if several and not isinstance(merged.tree, int) else [merged.tree]
        for value, tree in zip(maps, trees, strict=True):
            if not isinstance(value, dict) or isinstance(tree, int) or isinstance(tree[1], list):
                self._tell(Fault(line, self._path(), "<< wants a map or a list of maps"))
                return
            for key, entry in value.items():
                if key not in frame.value:
                    frame.value[key] = entry
                    frame.children[key] = tree[1][key]

    # ---- limits, places, scalars

    def _tell(self, fault: Fault) -> None:
        self.faults.append(fault)
        if len(self.faults) >= MAX_FAULTS:
            raise _Stop(fault.line, f"file has too many faults: {MAX_FAULTS} are told")

    def _pay(self, values: int, line: int) -> None:
        self._count += values
        if self._count > MAX_VALUES:
            raise _Stop(line, f"file has too many values: more than {MAX_VALUES}, aliases counted as often as used")

    def _path(self) -> str:
        path = ""
        for frame in self._frames:
            if isinstance(frame.value, list):
                path = join_path(path, len(frame.value))
            elif frame.key is not None and frame.key != _MERGING:
                path = join_path(path, frame.key)
        return path

    def _tagged(self, event: yaml.ScalarEvent, line: int) -> Any:
        tag = event.tag
        if tag is None or tag in ("!", _TAG + "str"):
            return event.value
        value = _plain(event.value)
        wanted = _TAGGED.get(tag.removeprefix(_TAG))
        if wanted is None:
            self._tell(Fault(line, self._path(), f"tag {tag} is not read"))
            return event.value
        if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
            self._tell(Fault(line, self._path(), f"tag {tag} does not fit its value"))
        return value


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _plain(text: str) -> Any:
    """Return what an unquoted scalar stands for."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _INT.match(text):
        return int(text)
    if _OCTAL.match(text):
        return int(text.replace("o", ""), 8)
    if _HEX.match(text):
        return int(text, 16)
    return float(text) if _FLOAT.match(text) else text
