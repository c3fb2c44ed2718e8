"""A resource's `metadata`: what is used of it, and what is let pass because Kubernetes writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from lateen.api.base import EMPTY, KindInfo, Spec
from lateen.api.names import is_dns_label, is_label_key, is_label_value, is_object_name, is_service_name
from lateen.api.places import Place
from lateen.api.shape import Faults, decode_struct
from lateen.api.suggest import nearest

__all__ = ["Metadata", "decode_metadata"]

# Kubernetes' own, without meaning here.
_PASSED: Final = frozenset(
    {
        "clusterName",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
ANNOTATIONS_LIMIT: Final = 256 * 1024  # Kubernetes, keys and values together, in characters


class ObjectMeta(Spec, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    creation_timestamp: str = ""


_KNOWN: Final = ("name", "namespace", "labels", "annotations", "creationTimestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a resource is called, and what hangs on it."""

    name: str
    namespace: str  # the default one where none is written, "" for kinds without
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: str  # RFC 3339 in UTC, to the second, so that text sorts as time does; "" when absent


def decode_metadata(
    value: Any, kind: str, info: KindInfo, default_namespace: str, faults: Faults, warnings: Faults
) -> Metadata | None:
    """Return the metadata of a resource, `None` after a fault. What is not known is told as a warning, no more."""
    place: Place = (None, "metadata")
    if not isinstance(value, Mapping):
        value = {} if value is None else value
    if isinstance(value, Mapping):
        for key in value.keys() - set(_KNOWN) - _PASSED:
            near = nearest(str(key), _KNOWN)
            hint = f", did you mean {near}?" if near is not None else ", it is passed over"
            warnings.append(((place, key), f"is not a field of metadata{hint}"))
        value = {key: value[key] for key in _KNOWN if key in value}
    written = decode_struct(ObjectMeta, value, place, faults)
    if written is None:
        return None
    before = len(faults)
    namespace = written.namespace or default_namespace if info.namespaced else ""
    faults.extend(_name_faults(written.name, kind, place))
    if info.namespaced and not (is_dns_label(namespace) and namespace == namespace.lower()):
        faults.append(((place, "namespace"), f'must be a lower-case DNS label, got "{namespace}"'))
    if not info.namespaced and written.namespace:
        warnings.append(((place, "namespace"), f'{kind} has no namespace, "{written.namespace}" is passed over'))
    faults.extend(_map_faults(written, place))
    created = ""
    if written.creation_timestamp:
        created = _utc(written.creation_timestamp)
        if not created:
            wanted = "must be a time as in 2026-01-31T12:00:00Z"
            faults.append(((place, "creationTimestamp"), f'{wanted}, got "{written.creation_timestamp}"'))
    if len(faults) > before:
        return None
    return Metadata(
        name=written.name,
        namespace=namespace,
        labels=written.labels,
        annotations=written.annotations,
        created=created,
    )


def _name_faults(name: str, kind: str, place: Place) -> Iterator[tuple[Place, str]]:
    where: Place = (place, "name")
    if not name:
        yield where, "is required"
    elif kind == "Service" and not is_service_name(name):
        yield where, f'must be a lower-case DNS label that begins with a letter, got "{name}"'
    elif kind == "Namespace" and not (is_dns_label(name) and name == name.lower()):
        yield where, f'must be a lower-case DNS label, got "{name}"'
    elif not is_object_name(name):
        yield where, f'must be lower-case letters, digits, "-" and ".", alphanumeric at both ends, got "{name[:80]}"'


def _map_faults(written: ObjectMeta, place: Place) -> Iterator[tuple[Place, str]]:
    for field, entries in (("labels", written.labels), ("annotations", written.annotations)):
        for key, value in entries.items():
            where: Place = ((place, field), key)
            if not is_label_key(key):
                yield where, f'must be a key as in app or team.test/app, got "{key[:80]}"'
            if field == "labels" and not is_label_value(value):
                wanted = 'must be at most 63 letters, digits, "-", "_" and ".", alphanumeric at both ends'
                yield where, f'{wanted}, got "{value[:80]}"'
    size = sum(len(key) + len(value) for key, value in written.annotations.items())
    if size > ANNOTATIONS_LIMIT:
        yield (place, "annotations"), f"must be at most {ANNOTATIONS_LIMIT} characters together, got {size}"


def _utc(text: str) -> str:
    """Return a time of RFC 3339 in UTC, "" when `text` is none."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None or "T" not in text.upper():
            return ""
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return ""
