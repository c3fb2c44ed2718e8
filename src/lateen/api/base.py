"""What every resource has in common: its key, where it was written, and how a fault in it is told.

Shapes only; decoding is in `lateen.api.decode`. Rules: Istio's API conventions, docs/api/README.md.

How a module of this package describes its kinds:

- One frozen struct a message, `class Gateway(Spec, frozen=True, kw_only=True)` (the type checker wants both words on
  every class). Fields are snake_case; YAML says camelCase, and may say snake_case too. `msgspec.field(name="meshMTLS")`
  where the camelCase differs.
- Scalars are `str`, `bool`, `int`, `float` or those of `lateen.api.scalars`. `T | None = None` keeps "not set" apart
  from zero. A field without a default is required. `msgspec.Meta` (`ge`, `le`, `gt`, `lt`, `min_length`, `max_length`,
  `pattern`) in `Annotated` is obeyed.
- Enums are `Literal["A", "B"]`. Lists are `tuple[X, ...] = ()`. Maps are `Mapping[str, X] = EMPTY` and decode to the
  hashable `FrozenMap`; `Mapping[int, X]` takes numbers, quoted or not, as keys. Free-form is `Any`, decoded to
  `FrozenMap`, tuples and scalars. So every decoded value can be hashed, and be the key of a cache.
- `null` is "absent" for a field and a fault inside a list or a map.
- One-of: `ONE_OF: ClassVar[OneOf] = (("exact", "prefix", "regex"),)`: of each group of fields at most one may appear.
- What a kind must satisfy beyond its shape: `check_<kind>(obj: Object) -> Iterator[Problem]` in a `check_...` module.
- The table in `lateen.api.kinds` names every kind: its group, versions, struct and check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import msgspec

from lateen.api.frozen import EMPTY, FrozenMap
from lateen.api.places import nearest_line

__all__ = [
    "EMPTY",
    "FrozenMap",
    "KindInfo",
    "Level",
    "Object",
    "OneOf",
    "Origin",
    "Problem",
    "ResourceKey",
    "Spec",
]

Level = Literal["error", "warning"]
OneOf = tuple[tuple[str, ...], ...]


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of every API struct: camelCase in YAML, unknown fields refused, `None` means not set."""

    ONE_OF: ClassVar[OneOf] = ()  # groups of field names of which at most one may be set


@dataclass(frozen=True, slots=True, order=True)
class ResourceKey:
    """Names one resource. All served versions of a kind are the same object, so the version is not part of it."""

    kind: str  # "VirtualService"; the one kind that two groups share is told apart as "Gateway" (networking.istio.io)
    namespace: str  # "" for kinds without one (Namespace, MeshConfig)
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where a resource was written. `line` counts from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault, fit to be shown: `file:line: field: message`."""

    file: str
    line: int  # 1-based; the line of the field where it can be told, else of the resource
    field: str  # `spec.http[0].route[1].weight`; "" when it is about the whole document
    message: str  # lower case, no full stop; value seen, value wanted
    level: Level = "error"
    resource: ResourceKey | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One decoded resource. Equal content at another line of the file is still an equal object."""

    key: ResourceKey
    api_version: str  # as written, "networking.istio.io/v1"
    spec: Any  # the kind's own struct, `VirtualService` and so on
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    created: str = ""  # metadata.creationTimestamp as written (RFC 3339), "" when absent; older sorts first
    origin: Origin = field(default=Origin("", 0), compare=False)
    lines: Mapping[str, int] = field(default=EMPTY, compare=False, repr=False)  # field path -> line

    def line_of(self, path: str) -> int:
        """Return the line of `path`, or of the nearest field around it that has one."""
        return nearest_line(self.lines, path, self.origin.line)

    def problem(self, path: str, message: str, level: Level = "error") -> Problem:
        """Tell one fault of this object at one of its fields."""
        return Problem(self.origin.file, self.line_of(path), path, message, level, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindInfo:
    """What the decoder must know about one kind."""

    group: str  # "networking.istio.io"; "" is the core group of Kubernetes
    versions: tuple[str, ...]  # every version that is read; all carry the same schema
    spec: type[Spec]
    namespaced: bool = True
    spec_required: bool = False
    # Fields are beside `metadata` instead of below `spec` (as in ServiceAccount).
    inline: bool = False
    # What the kind must satisfy beyond its shape: yields every fault of one object.
    check: Callable[[Object], Iterator[Problem]]
