"""The name table that Pilot gives to agents over xDS: what the mesh's DNS answers.

Source: Istio's name discovery service, `istio.networking.nds.v1.NameTable`. One resource holds the whole table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lateen.wire.messages import FieldProto, FileProto, MessageOptions, MessageProto, make_messages

if TYPE_CHECKING:
    from collections.abc import MutableSequence

    from google.protobuf.internal.containers import MessageMap
    from google.protobuf.message import Message

__all__ = ["NAME_TABLE_TYPE_URL", "NameInfo", "NameTable", "build_name_table", "encode_name_table"]

NAME_TABLE_TYPE_URL = "type.googleapis.com/istio.networking.nds.v1.NameTable"

if TYPE_CHECKING:

    class NameInfo(Message):
        """What one host resolves to, and where it was declared."""

        ips: MutableSequence[str]
        registry: str  # "Kubernetes" or "External"
        shortname: str  # first label of a Kubernetes host, else ""
        namespace: str  # of a Kubernetes host, else ""
        alt_hosts: MutableSequence[str]  # deprecated: agents derive other spellings themselves

        def __init__(
            self,
            *,
            ips: Iterable[str] = (),
            registry: str = "",
            shortname: str = "",
            namespace: str = "",
            alt_hosts: Iterable[str] = (),
        ) -> None: ...

    class NameTable(Message):
        """Hosts (no trailing dot; `*.` in front for wildcards) and what they resolve to."""

        table: MessageMap[str, NameInfo]

        def __init__(self, *, table: Mapping[str, NameInfo] | None = None) -> None: ...


_ONE, _MANY = FieldProto.LABEL_OPTIONAL, FieldProto.LABEL_REPEATED


def _string(name: str, number: int, *, many: bool = False) -> FieldProto:
    return FieldProto(name=name, number=number, type=FieldProto.TYPE_STRING, label=_MANY if many else _ONE)


def _message(name: str, number: int, type_name: str, *, many: bool = False) -> FieldProto:
    label = _MANY if many else _ONE
    return FieldProto(name=name, number=number, type=FieldProto.TYPE_MESSAGE, label=label, type_name=type_name)


_PACKAGE = "istio.networking.nds.v1"
_classes = make_messages(
    FileProto(
        name="lateen/istio/networking/nds/v1/nds.proto",
        package=_PACKAGE,
        syntax="proto3",
        message_type=[
            MessageProto(
                name="NameTable",
                field=[_message("table", 1, f".{_PACKAGE}.NameTable.TableEntry", many=True)],
                nested_type=[
                    MessageProto(
                        name="TableEntry",
                        field=[_string("key", 1), _message("value", 2, f".{_PACKAGE}.NameInfo")],
                        options=MessageOptions(map_entry=True),
                    )
                ],
            ),
            MessageProto(
                name="NameInfo",
                field=[
                    _string("ips", 1, many=True),
                    _string("registry", 2),
                    _string("shortname", 3),
                    _string("namespace", 4),
                    _string("alt_hosts", 5, many=True),
                ],
            ),
        ],
    )
)
if not TYPE_CHECKING:
    NameInfo = _classes["NameInfo"]
    NameTable = _classes["NameTable"]


def build_name_table(names: Mapping[str, NameInfo]) -> NameTable:
    """Return the table that holds a copy of each of `names`."""
    return NameTable(table=names)


def encode_name_table(table: NameTable) -> bytes:
    """Return the table's bytes: the same for equal tables, in whatever order they were filled.

    Plain serialisation would not do, since protobuf gives the entries of a map in any order.
    """
    return table.SerializeToString(deterministic=True)
