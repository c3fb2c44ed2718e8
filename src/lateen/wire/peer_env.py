"""How a proxy knows its own workload's labels: the environment that its agent gives to Envoy.

Access loggers and filters name these variables (`%ENVIRONMENT(LATEEN_WORKLOAD)%`), which Envoy replaces once, when it
loads the listener. So one listener serves every proxy of a view, and labels that never change cost a request nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

__all__ = ["PEER_BLOB", "PEER_FIELDS", "UNKNOWN", "peer_environment"]

# field of the standard metrics' labels (without source_/destination_) -> variable
PEER_FIELDS: Mapping[str, str] = {
    "workload": "LATEEN_WORKLOAD",
    "workload_namespace": "LATEEN_WORKLOAD_NAMESPACE",
    "cluster": "LATEEN_CLUSTER",
    "app": "LATEEN_APP",
    "version": "LATEEN_VERSION",
    "canonical_service": "LATEEN_CANONICAL_SERVICE",
    "canonical_revision": "LATEEN_CANONICAL_REVISION",
}
PEER_BLOB = "LATEEN_PEER"  # base64 of a serialised google.protobuf.Value: the same fields as one struct, sent to peers
UNKNOWN = "LATEEN_UNKNOWN"  # the text "unknown": a fallback in formats, cheaper there than a literal of CEL


def peer_environment(*, workload: str, namespace: str, cluster: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for one workload. Labels follow Istio's rules for app, version and canonical names."""
    app = labels.get("app") or labels.get("app.kubernetes.io/name") or ""
    version = labels.get("version") or labels.get("app.kubernetes.io/version") or ""
    fields = {
        "workload": workload,
        "workload_namespace": namespace,
        "cluster": cluster,
        "app": app or "unknown",
        "version": version or "unknown",
        "canonical_service": labels.get("service.istio.io/canonical-name") or app or workload,
        "canonical_revision": labels.get("service.istio.io/canonical-revision") or version or "latest",
    }
    env = {PEER_FIELDS[name]: value for name, value in fields.items()}
    env[UNKNOWN] = "unknown"
    env[PEER_BLOB] = base64.b64encode(_value_of(fields)).decode()
    return env


def _value_of(fields: Mapping[str, str]) -> bytes:
    # google.protobuf.Value{struct_value(5): Struct{fields(1): map<string, Value{string_value(3)}>}}, written by hand:
    # the agent, which needs this one message, then loads no protobuf for it.
    entries = b""
    for name in sorted(fields):
        value = _field(3, fields[name].encode())
        entries += _field(1, _field(1, name.encode()) + _field(2, value))
    return _field(5, entries)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
