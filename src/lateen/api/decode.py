"""Files and Kubernetes objects to checked resources: one fault never hides another, and every one has its line.

In:  the bytes of one file, or one object as Kubernetes' API gives it.
Out: `Decoded`: the resources that are right, and every problem. A resource with an error is not among the objects.
Rules: strict shapes (`lateen.api.shape`), kinds (`lateen.api.kinds`), Istio's semantic validation (`lateen.api.check`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from lateen.api.base import KindInfo, Object, Origin, Problem, ResourceKey, Spec
from lateen.api.check import check_object
from lateen.api.kinds import CORE_KINDS, GROUPS, KINDS, kind_info
from lateen.api.metadata import decode_metadata
from lateen.api.places import Lines, Place, Tree, moved_tree, nearest_line, path_text, subtree, tree_line
from lateen.api.secret import GRANT
from lateen.api.shape import Faults, decode_struct
from lateen.api.suggest import listed, nearest, seen
from lateen.api.yaml_source import MAX_DEPTH, MAX_FILE_BYTES, MAX_VALUES, parse_yaml

__all__ = ["MAX_FILE_BYTES", "MAX_PROBLEMS", "Decoded", "decode_documents", "decode_object"]

MAX_PROBLEMS: Final = 100  # of one file; who reads on after so many?
MISSPELT: Final = 0.8  # similarity from which on a foreign group or core kind is taken for one of ours, misspelt

VALUE: Final = ", got "  # what follows it in a message is what was written (`suggest.seen`)

_NO_FIELD: Final = "is not a field of "
_NEAR: Final = ", did you mean "
_TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_MESH_VERSION: Final = "mesh.istio.io/v1alpha1"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came out of one file or object. Objects in order of the file, problems by line."""

    objects: tuple[Object, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One resource as written. `shown` is how the document calls what is decoded as `spec`."""

    value: Any
    tree: Tree
    shown: str = "spec"


def decode_documents(data: bytes, file: str, *, default_namespace: str = "default") -> Decoded:
    """Return all that one file holds. `file` is only shown. Does not raise, whatever the bytes.

    An empty file holds nothing, and that is no problem.
    """
    documents, faults = parse_yaml(data)
    problems = [Problem(file, fault.line, fault.path, fault.message) for fault in faults]
    found: list[Object] = []
    errors = len(problems)
    for document in documents:
        for part in _parts(document.value, document.tree):
            if errors >= MAX_PROBLEMS:  # what comes after so many is not worth the time
                message = f"the rest of the file is not read: {errors} errors before it"
                unread = Problem(file, tree_line(part.tree), "", message)
                return Decoded((), (*_cut(problems, file), unread))
            obj, told = _decode_part(part, file, default_namespace)
            errors += sum(problem.level == "error" for problem in told)
            problems.extend(told)
            found.extend(obj)
    objects, doubled = _first_of_each(found)
    problems.extend(doubled)
    return Decoded(objects, _cut(problems, file))


def decode_object(value: Mapping[str, Any], origin: Origin, *, default_namespace: str = "default") -> Decoded:
    """Return one object that Kubernetes' API gave, decoded as if it stood in a file. Does not raise.

    It has no lines of its own: `origin` is the place of all its problems.
    """
    if _too_large(value):
        message = f"object is nested deeper than {MAX_DEPTH} or has more than {MAX_VALUES} values"
        return Decoded((), (Problem(origin.file, origin.line, "", message),))
    objects: list[Object] = []
    problems: list[Problem] = []
    for part in _parts(value, origin.line):
        obj, told = _decode_part(part, origin.file, default_namespace)
        objects.extend(obj)
        problems.extend(told)
    return Decoded(tuple(objects), _cut(problems, origin.file))


# ---------------------------------------------------------------- documents to parts


def _parts(value: Any, tree: Tree) -> Iterator[_Part]:
    """Yield the resources of a document: itself, or the items of a `List` (which may hold Lists)."""
    waiting = [_Part(value, tree)]
    while waiting:
        part = waiting.pop()
        items = part.value.get("items") if isinstance(part.value, Mapping) else None
        if isinstance(items, list) and part.value.get("kind") == "List":
            trees = subtree(part.tree, "items")
            waiting.extend(_Part(item, subtree(trees, i)) for i, item in reversed(list(enumerate(items))))
        else:
            yield part


def _decode_part(part: _Part, file: str, default_namespace: str) -> tuple[list[Object], list[Problem]]:
    value, tree = part.value, part.tree
    if not isinstance(value, Mapping):
        message = f"must be a resource: a map with apiVersion, kind and metadata, got {seen(value)}"
        return [], [Problem(file, tree_line(tree), "", message)]
    told = _Teller(file, tree)
    version, kind = value.get("apiVersion"), value.get("kind")
    for field, text in (("apiVersion", version), ("kind", kind)):
        if not isinstance(text, str) or not text:
            told.error((None, field), "is required" if text is None else f"must be text, got {seen(text)}")
    if told.problems or not isinstance(version, str) or not isinstance(kind, str):
        return [], told.problems
    if (version, kind) == ("v1", "ConfigMap") and _is_mesh_map(value):
        return _decode_mesh_map(value, tree, file)
    if version.partition("/")[0] == "install.istio.io" and kind == "IstioOperator":
        return _decode_operator(value, tree, file)
    if kind == "List":
        told.error((None, "items"), f"must be a list, got {seen(value.get('items'))}")
        return [], told.problems
    info = _find_kind(version, kind, told)
    if info is None:
        return [], told.problems
    return _decode_resource(part, version, kind, info, told, default_namespace)


def _find_kind(version: str, kind: str, told: _Teller) -> KindInfo | None:
    """Return what is known of a kind; tell why it is not read, where nothing is."""
    group, slash, number = version.rpartition("/")
    info = kind_info(kind)
    if info is not None and info.group == group:
        if number in info.versions:
            return info
        wanted = listed(f"{group}{slash}{known}" for known in info.versions)
        told.error((None, "apiVersion"), f'must be {wanted} for {kind}, got "{version}"')
        return None
    if group in GROUPS and group:
        ours = [known for known in KINDS if (entry := kind_info(known)) and entry.group == group]
        near = nearest(kind, ours)
        hint = f", did you mean {near}?" if near is not None else f", which has {listed(ours)}"
        told.error((None, "kind"), f'"{kind}" is not a kind of {group}{hint}')
        return None
    if group == "":
        near = nearest(kind, KINDS, cutoff=MISSPELT) if kind not in CORE_KINDS else None
        if near is not None:
            entry = kind_info(near)
            where = f" of {entry.group}" if entry is not None and entry.group else ""
            told.error((None, "kind"), f'"{kind}" is not a kind of {version}, did you mean {near}{where}?')
            return None
    else:
        near = _near_group(group)
        if near is not None:
            told.error((None, "apiVersion"), f'"{group}" is not a group that Lateen reads, did you mean {near}?')
            return None
    told.warning((None, "kind"), f"{kind} ({version}) is not a kind Lateen reads")
    return None


@lru_cache(maxsize=64)  # a file of Deployments asks the same again and again
def _near_group(group: str) -> str | None:
    return nearest(group, GROUPS - {""}, cutoff=MISSPELT)


# ---------------------------------------------------------------- one resource


class _Teller:
    """Collects the problems of one resource, and knows the line of each."""

    def __init__(self, file: str, tree: Tree, shown: str = "spec") -> None:
        self.file = file
        self.line = tree_line(tree)
        self.lines = Lines(tree)
        self.shown = shown
        self.key: ResourceKey | None = None
        self.problems: list[Problem] = []

    def error(self, place: Place, message: str) -> None:
        path = path_text(place)
        line = nearest_line(self.lines, path, self.line)
        self.problems.append(self.rename(Problem(self.file, line, path, message, "error", self.key)))

    def secret_error(self, place: Place, message: str) -> None:
        """Tell a fault of a Secret by no word that is only in it: no value, and no name of a field unheard of."""
        path = path_text(place)
        line = nearest_line(self.lines, path, self.line)
        if place is not None and message.startswith(_NO_FIELD) and _NEAR not in message:
            path, message = path_text(place[0]), f"has what {message}"
        self.problems.append(
            self.rename(Problem(self.file, line, path, message.partition(VALUE)[0], "error", self.key))
        )

    def warning(self, place: Place, message: str) -> None:
        self.error(place, message)
        self.problems[-1] = replace(self.problems[-1], level="warning")

    def rename(self, problem: Problem) -> Problem:
        """Call what was decoded as `spec` what the document calls it."""
        if self.shown == "spec" or not (problem.field == "spec" or problem.field.startswith(("spec.", "spec["))):
            return problem
        return replace(problem, field=(self.shown + problem.field.removeprefix("spec")).removeprefix("."))


def _decode_resource(
    part: _Part, version: str, kind: str, info: KindInfo, told: _Teller, default_namespace: str
) -> tuple[list[Object], list[Problem]]:
    value, tree = part.value, part.tree
    mesh = info.group == "mesh.istio.io"
    if info.inline or (mesh and "spec" not in value):
        body = {key: entry for key, entry in value.items() if key not in _TOP}
        lines = dict(children) if isinstance(tree, tuple) and isinstance(children := tree[1], dict) else {}
        tree = (tree_line(tree), {**lines, "spec": (tree_line(tree), lines)})
        told = _Teller(told.file, tree, shown="")
        spec_value: Any = body
    else:
        spec_value = value.get("spec")
        for key in value:
            if key not in _TOP:
                near = nearest(str(key), _TOP)
                hint = f", did you mean {near}?" if near is not None else f", which has {listed(_TOP)}"
                told.error((None, key), f"is not a field of {kind}{hint}")
    metadata_value = value.get("metadata")
    if mesh:
        metadata_value = {"name": "mesh", **metadata_value} if isinstance(metadata_value, Mapping) else {"name": "mesh"}
    faults: Faults = []
    warnings: Faults = []
    metadata = decode_metadata(metadata_value, kind, info, default_namespace, faults, warnings)
    if metadata is not None:
        told.key = ResourceKey(kind, metadata.namespace, metadata.name)
    spec = _decode_spec(spec_value, info, kind, faults)
    for place, message in faults:
        (told.secret_error if kind == "Secret" else told.error)(place, message)
    for place, message in warnings:
        if kind == "Secret":
            told.secret_error(place, message)
            told.problems[-1] = replace(told.problems[-1], level="warning")
        else:
            told.warning(place, message)
    if metadata is None or spec is None or told.key is None:
        return [], told.problems
    obj = Object(
        key=told.key,
        api_version=version,
        spec=spec,
        labels=metadata.labels,
        # `kubectl apply` writes a whole Secret into one of its annotations: none is kept but the one that acts.
        annotations={key: text for key, text in metadata.annotations.items() if kind != "Secret" or key == GRANT},
        created=metadata.created,
        origin=Origin(told.file, told.line),
        lines=told.lines,
    )
    told.problems.extend(told.rename(problem) for problem in check_object(obj))
    wrong = any(problem.level == "error" for problem in told.problems)
    return [] if wrong else [obj], told.problems


def _decode_spec(value: Any, info: KindInfo, kind: str, faults: Faults) -> Spec | None:
    place: Place = (None, "spec")
    if value is None:
        if info.spec_required:
            faults.append((place, f"is required in {kind}"))
            return None
        value = {}
    return decode_struct(info.spec, value, place, faults)


# ---------------------------------------------------------------- the mesh's settings, as Istio has them


def _is_mesh_map(value: Mapping[str, Any]) -> bool:
    """True for the ConfigMap that an Istio installation keeps its mesh's settings in."""
    metadata = value.get("metadata")
    return isinstance(metadata, Mapping) and metadata.get("name") == "istio"


def _decode_mesh_map(value: Mapping[str, Any], tree: Tree, file: str) -> tuple[list[Object], list[Problem]]:
    data = value.get("data")
    objects: list[Object] = []
    problems: list[Problem] = []
    if data is None:
        return objects, problems
    if not isinstance(data, Mapping):
        told = _Teller(file, tree)
        told.error((None, "data"), f"must be a map, got {seen(data)}")
        return objects, told.problems
    for name, kind in (("mesh", "MeshConfig"), ("meshNetworks", "MeshNetworks")):
        text = data.get(name)
        key_line = tree_line(subtree(subtree(tree, "data"), name))
        shown = f"data.{name}"
        if text is None:
            continue
        if not isinstance(text, str):
            problems.append(Problem(file, key_line, shown, f"must be text that holds YAML, got {seen(text)}"))
            continue
        # A block of text begins on the line below its key, text of one line on the key's own.
        offset = key_line if "\n" in text else key_line - 1
        documents, faults = parse_yaml(text.encode())
        problems.extend(Problem(file, fault.line + offset, shown, fault.message) for fault in faults)
        for document in documents[:1]:
            found, told_here = _decode_mesh(
                document.value, moved_tree(document.tree, offset), kind, "istio", file, shown, key_line
            )
            objects.extend(found)
            problems.extend(told_here)
    return objects, problems


def _decode_operator(value: Mapping[str, Any], tree: Tree, file: str) -> tuple[list[Object], list[Problem]]:
    """Read `spec.meshConfig` of an IstioOperator; the rest says how to install Istio."""
    spec = value.get("spec")
    told = _Teller(file, tree)
    if not isinstance(spec, Mapping):
        told.warning((None, "kind"), "IstioOperator without a spec says nothing that Lateen reads")
        return [], told.problems
    for key in spec:
        if key != "meshConfig":
            told.warning(((None, "spec"), key), "is not read: of an IstioOperator only spec.meshConfig is")
    mesh = spec.get("meshConfig")
    if mesh is None:
        return [], told.problems
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    below = subtree(subtree(tree, "spec"), "meshConfig")
    shown = "spec.meshConfig"
    objects, problems = _decode_mesh(mesh, below, "MeshConfig", str(name or "mesh"), file, shown, tree_line(below))
    return objects, [*told.problems, *problems]


def _decode_mesh(
    value: Any, tree: Tree, kind: str, name: str, file: str, shown: str, line: int
) -> tuple[list[Object], list[Problem]]:
    """Decode settings that stand inside another resource, as if they were a resource of their own."""
    info = kind_info(kind)
    if info is None:
        raise AssertionError(f"no kind {kind}")
    whole: dict[str, Any] = {"metadata": {"name": name}, "spec": value}
    part = _Part(whole, (line, {"spec": tree}), shown)
    return _decode_resource(part, _MESH_VERSION, kind, info, _Teller(file, part.tree, shown), "")


# ---------------------------------------------------------------- the whole


def _first_of_each(objects: Iterable[Object]) -> tuple[tuple[Object, ...], list[Problem]]:
    """Keep the first resource of each name; tell the others."""
    kept: dict[ResourceKey, Object] = {}
    problems = []
    for obj in objects:
        first = kept.setdefault(obj.key, obj)
        if first is not obj:
            message = f"{obj.key} is defined at {first.origin} already; names must be unique"
            problems.append(obj.problem("metadata.name", message))
    return tuple(kept.values()), problems


def _cut(problems: list[Problem], file: str) -> tuple[Problem, ...]:
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.field, problem.message))
    if len(ordered) > MAX_PROBLEMS:
        # Errors first: a warning must not take the place of what refuses the file.
        ordered = sorted(ordered, key=lambda problem: problem.level != "error")[:MAX_PROBLEMS]
        rest = len(problems) - MAX_PROBLEMS
        more = f"and {rest} more {'problem' if rest == 1 else 'problems'}"
        ordered.append(Problem(file, max(problem.line for problem in ordered), "", more, ordered[0].level))
    return tuple(ordered)


def _too_large(value: Any) -> bool:
    """Tell whether a value is deeper or larger than one from a file may be."""
    waiting = [(value, 1)]
    count = 0
    while waiting:
        entry, depth = waiting.pop()
        count += 1
        if isinstance(entry, (Mapping, list, tuple)):
            if depth > MAX_DEPTH or count + len(entry) > MAX_VALUES:
                return True
            below = entry.values() if isinstance(entry, Mapping) else entry
            waiting.extend((child, depth + 1) for child in below)
    return count > MAX_VALUES
