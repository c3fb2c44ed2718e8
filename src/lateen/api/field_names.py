"""How the fields of structs are called in YAML, for messages that name them."""

from __future__ import annotations

from functools import cache

from lateen.api.base import Spec

__all__ = ["yaml_name"]


def yaml_name(spec: Spec, field: str) -> str:
    """Return what the attribute `field` of `spec` is called in YAML. Raises `KeyError` for one it does not have."""
    return _names(type(spec))[field]


@cache  # bounded by the number of structs
def _names(struct: type[Spec]) -> dict[str, str]:
    return dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
