"""Judge one resource as a file would be judged: decoded by the real decoder, checked by its kind's checks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from lateen.api.base import Problem
from lateen.api.decode import Decoded, decode_documents
from lateen.api.kinds import kind_info


def decode(kind: str, spec: str, annotations: Mapping[str, str] | None = None) -> Decoded:
    """Decode one resource of `kind` in namespace `shop` whose `spec` is the YAML text given."""
    info = kind_info(kind)
    assert info is not None
    metadata: dict[str, Any] = {"name": "it", **({"namespace": "shop"} if info.namespaced else {})}
    if annotations:
        metadata["annotations"] = dict(annotations)
    head = yaml.safe_dump({"apiVersion": f"{info.group}/{info.versions[0]}", "kind": kind, "metadata": metadata})
    body = textwrap.indent(spec, "  ")
    return decode_documents(f"{head}spec:\n{body}\n".encode(), "it.yaml")


def judge(kind: str, spec: str, annotations: Mapping[str, str] | None = None) -> list[Problem]:
    """Return every problem of the resource."""
    return list(decode(kind, spec, annotations).problems)


def faults(kind: str, spec: str, level: str) -> list[tuple[str, str]]:
    """Return (field, message) of every problem of one level."""
    return [(problem.field, problem.message) for problem in judge(kind, spec) if problem.level == level]


def refusal(kind: str, spec: str) -> str:
    """Return the only problem of a resource that is refused, as it is shown."""
    (problem,) = judge(kind, spec)
    assert problem.level == "error"
    return str(problem)


def read_spec(kind: str, spec: str) -> Any:
    """Return the struct of a resource that is right."""
    (obj,) = decode(kind, spec).objects
    return obj.spec
