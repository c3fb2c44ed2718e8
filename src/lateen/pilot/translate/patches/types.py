"""Find the class of a protobuf message by its full name, among those that xds-protos has.

A type that nobody has asked for yet is not imported: its module is found by its package, which is its folder.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

__all__ = ["message_class"]

# Where Envoy's types are. Names come from users' files: nothing else is ever imported for them.
_ROOTS: Final = frozenset({"envoy", "xds", "udpa", "opentelemetry", "google"})
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+", re.ASCII)


@cache
def message_class(name: str) -> type[Message] | None:
    """Return the class of `envoy.config.cluster.v3.Cluster`; None when there is no such message here."""
    if not _NAME.fullmatch(name) or name.partition(".")[0] not in _ROOTS:
        return None
    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName(name)
    except KeyError:
        _import_package([word for word in name.split(".") if word[0].islower()])
        try:
            descriptor = pool.FindMessageTypeByName(name)
        except KeyError:
            return None
    found: type[Message] = message_factory.GetMessageClass(descriptor)
    return found


def _import_package(words: list[str]) -> None:
    package = ".".join(words)
    try:
        folders = [Path(folder) for folder in importlib.import_module(package).__path__]
    except (ImportError, AttributeError):
        return
    for folder in folders:
        for module in sorted(folder.glob("*_pb2.py")):
            importlib.import_module(f"{package}.{module.stem}")
