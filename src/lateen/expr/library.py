"""The CEL library, set up for the vocabulary: one environment that judges types, one that evaluates.

In:  texts. Out: what the library makes of them; its complaints as `ExpressionError`.
Judged is against messages that are made of the vocabulary, so that a name that does not exist and a text compared with
a number are found before anything runs. Evaluated is on plain mappings, which cost nothing to make for each request.
The library is a large extension module: it is loaded when the first expression is compiled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from lateen.expr.attributes import ATTRIBUTES, ROOTS, Attribute, Type
from lateen.expr.errors import ExpressionError

__all__ = [
    "PACKAGE",
    "Checked",
    "check",
    "error_type",
    "new_activation",
    "pattern_matches",
    "prepare",
    "prepare_pattern",
    "value_type",
]

PACKAGE: Final = "lateen.attributes"
_SCALARS: Final = {
    Type.STRING: FieldDescriptorProto.TYPE_STRING,
    Type.INT: FieldDescriptorProto.TYPE_INT64,
    Type.BOOL: FieldDescriptorProto.TYPE_BOOL,
}
_MESSAGES: Final = {
    Type.DURATION: Duration.DESCRIPTOR,
    Type.TIMESTAMP: Timestamp.DESCRIPTOR,
    Type.STRUCT: Struct.DESCRIPTOR,
}
_POSITION: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)")
_OURS: Final = re.compile(rf"'?{PACKAGE}\.(?:root_)?([a-zA-Z_.]*)'?")


@dataclass(frozen=True, slots=True)
class Checked:
    """A text that the library takes: its type in CEL's words, and the message `google.api.expr` CheckedExpr."""

    type: str
    message: bytes


@cache
def _cel() -> Any:
    from cel_expr_python import cel

    return cel


@cache
def _extensions() -> list[Any]:
    from cel_expr_python.ext import ext_strings

    return [ext_strings.ExtStrings()]


@cache
def _judge() -> Any:
    """Return the environment that knows the type of every attribute."""
    cel = _cel()
    return cel.NewEnv(
        descriptor_pool=_pool(),
        variables={root: cel.Type(f"{PACKAGE}.root_{root}") for root in ROOTS},
        extensions=_extensions(),
    )


@cache
def _engine() -> Any:
    """Return the environment in which a root is a mapping of whatever is there."""
    cel = _cel()
    mapping = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    return cel.NewEnv(variables=dict.fromkeys(ROOTS, mapping), extensions=_extensions())


def check(text: str) -> Checked:
    """Return what `text` is.

    Raises: ExpressionError when it is no expression, or one that names what there is not.
    """
    from google.protobuf.any_pb2 import Any as AnyMessage

    try:
        compiled = _judge().compile(text)
    except RuntimeError as error:
        raise _told(str(error)) from None
    packed = AnyMessage.FromString(compiled.serialize())
    return Checked(type=compiled.return_type().name(), message=packed.value)


def prepare(text: str) -> Any:
    """Return the expression, ready to run; `check` has taken it.

    Raises: ExpressionError where its meaning needs the types that only `check` knows.
    """
    try:
        return _engine().compile(text)
    except RuntimeError as error:
        raise _told(str(error)) from None


@cache
def _matcher() -> Any:
    """Return the environment in which a pattern is tried on a value."""
    cel = _cel()
    return cel.NewEnv(variables={"value": cel.Type.STRING})


def prepare_pattern(pattern: str) -> Any:
    """Return a pattern (RE2) that is to match a whole text. Raises: ExpressionError."""
    quoted = json.dumps(f"^(?:{pattern})$")
    try:
        compiled = _matcher().compile(f"value.matches({quoted})")
    except RuntimeError as error:
        raise _told(str(error)) from None
    if compiled.eval(_matcher().Activation(data={"value": ""})).type() == error_type():
        raise ExpressionError("it cannot be read")
    return compiled


def pattern_matches(compiled: Any, text: str) -> bool:
    """Tell whether a prepared pattern matches a text."""
    return compiled.eval(_matcher().Activation(data={"value": text})).value() is True


def new_activation(data: Mapping[str, Any]) -> Any:
    """Return what expressions run on."""
    return _engine().Activation(data=data)


@cache
def error_type() -> Any:
    """Return the library's type of values that are none."""
    return _cel().Type.ERROR


@cache
def value_type() -> Any:
    """Return the library's class of values inside lists and maps."""
    return _cel().Value


def _told(message: str) -> ExpressionError:
    found = _POSITION.search(message)
    if found is None:
        return ExpressionError(_plain(message.strip().partition("\n")[0]), 1, 1)
    # The library counts columns from 0 in some complaints and from 1 in others; its first column is 1 here.
    return ExpressionError(_plain(found[3]), int(found[1]), max(int(found[2]), 1))


def _plain(message: str) -> str:
    """Take names out that nobody wrote."""
    return _OURS.sub(lambda found: found[1].replace("root_", ""), message).strip()


def _pool() -> DescriptorPool:
    """Return the messages of the vocabulary: a nested message for each group, a field for each attribute."""
    pool = DescriptorPool()
    file = FileDescriptorProto(name="lateen/attributes.proto", package=PACKAGE, syntax="proto3")
    for descriptor in _MESSAGES.values():
        known = FileDescriptorProto()
        descriptor.file.CopyToProto(known)
        pool.Add(known)
        file.dependency.append(known.name)
    for root in ROOTS:
        prefix = f"{root}."
        _group(file.message_type.add(name=f"root_{root}"), PACKAGE, prefix, _below(prefix))
    pool.Add(file)
    return pool


def _below(prefix: str) -> list[Attribute]:
    return [attribute for attribute in ATTRIBUTES if attribute.name.startswith(prefix)]


def _group(message: DescriptorProto, package: str, prefix: str, attributes: Iterable[Attribute]) -> None:
    groups: dict[str, None] = {}
    for attribute in attributes:
        name, dot, _ = attribute.name.removeprefix(prefix).partition(".")
        if dot:
            groups[name] = None
        else:
            _field(message, f"{package}.{message.name}", name, attribute.type)
    for name in groups:
        nested = message.nested_type.add(name=f"in_{name}")
        below = f"{prefix}{name}."
        _group(nested, f"{package}.{message.name}", below, _below(below))
        message.field.add(
            name=name,
            number=len(message.field) + 1,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
            type=FieldDescriptorProto.TYPE_MESSAGE,
            type_name=f".{package}.{message.name}.{nested.name}",
        )


def _field(message: DescriptorProto, path: str, name: str, kind: Type) -> None:
    number = len(message.field) + 1
    if kind is Type.STRINGS:
        entry = message.nested_type.add(name=_camel(name) + "Entry")
        entry.options.map_entry = True
        for place, part in enumerate(("key", "value"), start=1):
            entry.field.add(
                name=part,
                number=place,
                label=FieldDescriptorProto.LABEL_OPTIONAL,
                type=FieldDescriptorProto.TYPE_STRING,
            )
        message.field.add(
            name=name,
            number=number,
            label=FieldDescriptorProto.LABEL_REPEATED,
            type=FieldDescriptorProto.TYPE_MESSAGE,
            type_name=f".{path}.{entry.name}",
        )
    elif kind in _MESSAGES:
        message.field.add(
            name=name,
            number=number,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
            type=FieldDescriptorProto.TYPE_MESSAGE,
            type_name=f".{_MESSAGES[kind].full_name}",
        )
    else:
        message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL, type=_SCALARS[kind])


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
