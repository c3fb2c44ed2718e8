"""How a proxy knows its own workload's labels: the environment that its agent gives to Envoy.

Filters name these variables (`%ENVIRONMENT(LATEEN_WORKLOAD)%`), which Envoy replaces once, when it loads the listener.
So one listener serves every proxy of a view. What proxies tell each other is one text, all labels in a fixed order:
Envoy copies it as it is, and whoever reads metrics takes it apart (`lateen.agent.standard_metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "LEFT_OUT",
    "PEER_FIELDS",
    "PEER_ORDER",
    "PEER_TEXT",
    "UNKNOWN",
    "pack_peer",
    "peer_environment",
    "peer_fields",
    "unpack_peer",
]

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
PEER_TEXT: Final = "LATEEN_PEER"  # all of them as one text, sent to peers
# Istio's order of what it tells of endpoints, and then what it does not tell.
PEER_ORDER: Final = (
    "workload",
    "workload_namespace",
    "canonical_service",
    "canonical_revision",
    "cluster",
    "app",
    "version",
)
SEPARATOR: Final = ";"
UNKNOWN: Final = "unknown"
LEFT_OUT: Final = "(left out)"  # the value of a label of the standard metrics that somebody does not want


def peer_environment(*, workload: str, namespace: str, cluster: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for one workload."""
    fields = peer_fields(workload=workload, namespace=namespace, cluster=cluster, labels=labels)
    return {**{PEER_FIELDS[name]: value for name, value in fields.items()}, PEER_TEXT: pack_peer(fields)}


def peer_fields(*, workload: str, namespace: str, cluster: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of one workload. They follow Istio's rules for app, version and canonical names."""
    app = labels.get("app") or labels.get("app.kubernetes.io/name") or ""
    version = labels.get("version") or labels.get("app.kubernetes.io/version") or ""
    return {
        "workload": workload,
        "workload_namespace": namespace,
        "cluster": cluster,
        "app": app or UNKNOWN,
        "version": version or UNKNOWN,
        "canonical_service": labels.get("service.istio.io/canonical-name") or app or workload,
        "canonical_revision": labels.get("service.istio.io/canonical-revision") or version or "latest",
    }


def pack_peer(fields: Mapping[str, str]) -> str:
    """Return the labels as one text. What cannot stand in a header or would end a field is replaced by `_`."""
    return SEPARATOR.join(
        "".join(char if " " < char < "\x7f" and char != SEPARATOR else "_" for char in fields.get(name, ""))
        for name in PEER_ORDER
    )


def unpack_peer(text: str) -> dict[str, str]:
    """Return all labels that a text tells; `unknown` where it tells nothing, as when there is no text."""
    told = text.split(SEPARATOR)
    return {name: (told[place] if place < len(told) else "") or UNKNOWN for place, name in enumerate(PEER_ORDER)}
