"""What every resource has in common: its key, where it was written, and how a fault in it is told.

Shapes only; decoding is in `lateen.api.decode`. Rules: Istio's API conventions, docs/api/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

__all__ = ["Level", "Object", "Origin", "Problem", "ResourceKey", "Spec"]

Level = Literal["error", "warning"]


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of every API struct: camelCase in YAML, unknown fields refused, `None` means not set."""


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
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    created: str = ""  # metadata.creationTimestamp as written (RFC 3339), "" when absent; older sorts first
    origin: Origin = field(default=Origin("", 0), compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # field path -> line

    def line_of(self, path: str) -> int:
        """Return the line of `path`, or of the nearest field around it that has one."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.origin.line

    def problem(self, path: str, message: str, level: Level = "error") -> Problem:
        """Tell one fault of this object at one of its fields."""
        return Problem(self.origin.file, self.line_of(path), path, message, level, self.key)
