"""Read Envoy's admin JSON: what is where in a configuration dump, without a word of protobuf.

In:  the decoded answers of `/config_dump` and `/clusters?format=json` (envoy.admin.v3; fields named as in .proto).
Out: the messages in it, by kind and sorted by name, as plain mappings. Whatever else a dump holds is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["REDACTED", "Dump", "Note", "SecretEntry", "read_dump", "redact"]

Message = Mapping[str, Any]

REDACTED: Final = "[redacted]"
# Envoy leaves these out itself; a fault there, or another version, must still show no key.
_SECRET_FIELDS: Final = frozenset({"private_key", "password", "session_ticket_keys", "generic_secret", "inline_key"})
_DUMP_TYPES: Final = "type.googleapis.com/envoy.admin.v3."


@dataclass(frozen=True, slots=True)
class SecretEntry:
    """One secret the proxy holds, or waits for (`secret` is then without content)."""

    name: str
    status: str  # "ACTIVE" | "WARMING"
    secret: Message


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person should know of one resource: it waits for others, or was refused."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What a proxy holds. What is warming and has no active predecessor is listed too, with a note."""

    bootstrap: Message
    clusters: tuple[Message, ...] = ()
    listeners: tuple[Message, ...] = ()
    routes: tuple[Message, ...] = ()
    secrets: tuple[SecretEntry, ...] = ()
    extensions: Mapping[str, Message] = field(default_factory=dict)  # configuration of filters that come apart, by name
    notes: tuple[Note, ...] = ()


def read_dump(data: Message) -> Dump:
    """Return the parts of one dump; a part that it lacks is empty."""
    parts = {part.get("@type", "").removeprefix(_DUMP_TYPES): redact(part) for part in data.get("configs", ())}
    clusters, cluster_notes = _clusters(parts.get("ClustersConfigDump", {}))
    listeners, listener_notes = _listeners(parts.get("ListenersConfigDump", {}))
    return Dump(
        bootstrap=parts.get("BootstrapConfigDump", {}).get("bootstrap", {}),
        clusters=clusters,
        listeners=listeners,
        routes=_routes(parts.get("RoutesConfigDump", {})),
        secrets=tuple(
            sorted(_secrets(parts.get("SecretsConfigDump", {})), key=lambda entry: (entry.name, entry.status))
        ),
        extensions=dict(_extensions(parts.get("EcdsConfigDump", {}))),
        notes=(*cluster_notes, *listener_notes),
    )


def redact(value: Any) -> Any:
    """Return a copy in which nothing below a field that holds secrets can be read."""
    match value:
        case Mapping():
            return {key: REDACTED if key in _SECRET_FIELDS else redact(value[key]) for key in value}
        case list() | tuple():
            return [redact(item) for item in value]
        case _:
            return value


def _clusters(part: Message) -> tuple[tuple[Message, ...], list[Note]]:
    active = [entry["cluster"] for key in ("static_clusters", "dynamic_active_clusters") for entry in part.get(key, ())]
    names = {_name(cluster) for cluster in active}
    warming = [entry["cluster"] for entry in part.get("dynamic_warming_clusters", ())]
    notes = [
        Note(_name(cluster), "a newer version is warming" if _name(cluster) in names else "is warming: not in use yet")
        for cluster in warming
    ]
    found = [*active, *(cluster for cluster in warming if _name(cluster) not in names)]
    return tuple(sorted(found, key=_name)), notes


def _listeners(part: Message) -> tuple[tuple[Message, ...], list[Note]]:
    found: list[Message] = [entry["listener"] for entry in part.get("static_listeners", ())]
    notes: list[Note] = []
    for entry in part.get("dynamic_listeners", ()):
        active, warming = entry.get("active_state"), entry.get("warming_state")
        held = active or warming
        if held and "listener" in held:
            found.append(held["listener"])
        if warming:
            notes.append(Note(entry["name"], "a newer version is warming" if active else "is warming: not in use yet"))
        if entry.get("error_state"):
            notes.append(Note(entry["name"], f"was refused: {entry['error_state'].get('details', 'no details')}"))
        if entry.get("draining_state") and not held:
            notes.append(Note(entry["name"], "is draining"))
    return tuple(sorted(found, key=_name)), notes


def _routes(part: Message) -> tuple[Message, ...]:
    entries = (entry for key in ("static_route_configs", "dynamic_route_configs") for entry in part.get(key, ()))
    return tuple(sorted((entry["route_config"] for entry in entries if "route_config" in entry), key=_name))


def _secrets(part: Message) -> Iterator[SecretEntry]:
    for key, status in (
        ("static_secrets", "ACTIVE"),
        ("dynamic_active_secrets", "ACTIVE"),
        ("dynamic_warming_secrets", "WARMING"),
    ):
        for entry in part.get(key, ()):
            yield SecretEntry(entry.get("name", ""), status, entry.get("secret", {}))


def _extensions(part: Message) -> Iterator[tuple[str, Message]]:
    for entry in part.get("ecds_filters", ()):
        config = entry.get("ecds_filter", {})
        yield config.get("name", ""), config.get("typed_config", {})


def _name(message: Message) -> str:
    return str(message.get("name", ""))
