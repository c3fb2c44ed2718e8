"""Samples that together set every field of every networking and core kind: all of them are read, and read right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lateen.api.base import Object, Spec
from lateen.api.decode import decode_documents
from lateen.api.encode import encode_object
from lateen.api.kinds import KINDS, kind_info
from lateen.api.shape import struct_fields

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.yaml"))

# Fields that are known, so that their refusal says more than "unknown field".
REFUSED = {
    ("Port", "targetPort"),
    ("SidecarPort", "targetPort"),
    ("FaultDelay", "exponentialDelay"),
    ("FaultAbort", "http2Error"),
    ("PolicyTargetReference", "namespace"),
}


def objects() -> list[Object]:
    found = []
    for path in SAMPLES:
        decoded = decode_documents(path.read_bytes(), path.name)
        assert [str(problem) for problem in decoded.problems if problem.level == "error"] == []
        found.extend(decoded.objects)
    return found


def structs(value: Any) -> Iterator[Spec]:
    """Yield every struct in a value, itself included."""
    if isinstance(value, Spec):
        yield value
        for field in struct_fields(type(value)):
            yield from structs(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from structs(entry)
    elif isinstance(value, tuple):
        for entry in value:
            yield from structs(entry)


def test_every_kind_of_the_group_is_there() -> None:
    groups = {"networking.istio.io", ""}
    wanted = {kind for kind in KINDS if (info := kind_info(kind)) is not None and info.group in groups}
    assert {obj.key.kind for obj in objects()} == wanted


def test_every_field_is_set_somewhere() -> None:
    given: dict[type[Spec], set[str]] = {}
    for obj in objects():
        for struct in structs(obj.spec):
            names = given.setdefault(type(struct), set())
            for field in struct_fields(type(struct)):
                if getattr(struct, field.name) != field.default:
                    names.add(field.encode_name)
    missing = {
        (struct.__name__, field.encode_name)
        for struct, names in given.items()
        for field in struct_fields(struct)
        if field.encode_name not in names
    }
    assert missing == REFUSED


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_written_again_says_the_same(path: Path) -> None:
    decoded = decode_documents(path.read_bytes(), path.name)
    text = "\n---\n".join(json.dumps(encode_object(obj)) for obj in decoded.objects)
    assert decode_documents(text.encode(), "again").objects == decoded.objects


def test_every_field_has_a_line() -> None:
    for obj in objects():
        assert obj.lines
        assert min(obj.lines.values()) >= obj.origin.line
