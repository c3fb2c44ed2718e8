"""Resources back to plain values, as YAML and JSON have them: what was decoded comes out equal when decoded again.

Fields that have their default value are left away. Texts that look like numbers or booleans stay texts: quote them when
printing YAML (`yes`, `1e3`, `0o17`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lateen.api.base import Object, Spec
from lateen.api.kinds import kind_info
from lateen.api.scalars import format_duration
from lateen.api.shape import struct_fields

__all__ = ["encode_object", "encode_value"]


def encode_object(obj: Object) -> dict[str, Any]:
    """Return one resource as `lateen.api.decode` reads it."""
    metadata: dict[str, Any] = {"name": obj.key.name}
    if obj.key.namespace:
        metadata["namespace"] = obj.key.namespace
    for name, value in (("labels", obj.labels), ("annotations", obj.annotations)):
        if value:
            metadata[name] = dict(value)
    if obj.created:
        metadata["creationTimestamp"] = obj.created
    info = kind_info(obj.key.kind)
    head = {"apiVersion": obj.api_version, "kind": obj.key.kind, "metadata": metadata}
    body = encode_value(obj.spec)
    return {**head, **body} if info is not None and info.inline else {**head, "spec": body}


def encode_value(value: Any) -> Any:
    """Return a decoded value as dict, list and scalars."""
    match value:
        case Spec():
            return {
                field.encode_name: encode_value(entry)
                for field in struct_fields(type(value))
                if (entry := getattr(value, field.name)) != field.default or field.required
            }
        case Mapping():
            return {str(key): encode_value(entry) for key, entry in value.items()}
        case list() | tuple():
            return [encode_value(entry) for entry in value]
        case timedelta():
            return format_duration(value)
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case _:
            return value
