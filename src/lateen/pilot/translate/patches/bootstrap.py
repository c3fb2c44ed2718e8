"""BOOTSTRAP patches for an agent: plain JSON that it merges into its proxy's bootstrap without protobuf.

What a merge of messages does by itself and one of maps does not is told beside the value: which other members of a
one-of go, and which fields were written out with their default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from lateen.pilot.model.envoy_filters import Patch
from lateen.pilot.translate.patches.parse import Zeros
from lateen.pilot.translate.patches.values import parsed_patch, usable
from lateen.wire.local import BootstrapPatch

__all__ = ["bootstrap_patches"]


def bootstrap_patches(patches: tuple[Patch, ...]) -> tuple[BootstrapPatch, ...]:
    """Return what an agent is told of these patches, in order; those with a faulty value are left out."""
    return tuple(
        BootstrapPatch(
            id=str(patch.id),
            value=MessageToDict(parsed.message, preserving_proto_field_name=True),
            clears=(*_rivals(parsed.message, ()), *_defaults(parsed.zeros, ())),
            replace_lists=patch.operation == "MERGE_AND_REPLACE_LIST",
        )
        for patch in usable(patches)
        if (parsed := parsed_patch(patch)) is not None
    )


def _rivals(message: Message, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the members of one-ofs that what is set excludes; not inside lists and maps, which hold new elements."""
    for field, value in message.ListFields():
        group = field.containing_oneof
        for other in group.fields if group is not None else ():
            if other.name != field.name:
                yield (*path, other.name)
        if isinstance(value, Message) and not value.DESCRIPTOR.full_name.startswith("google.protobuf."):
            yield from _rivals(value, (*path, field.name))


def _defaults(zeros: Zeros, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, inside in zeros.items():
        below: Any = (*path, name)
        if inside is True:
            yield below
        else:
            yield from _defaults(inside, below)
