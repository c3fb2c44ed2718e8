"""What a Telemetry's `tagOverrides` writes, as Envoy's formats.

In:  a CEL expression over Istio's attributes. Out: a format of Envoy's that gives its value, or `unknown`.
Istio's own attributes are other names of what Envoy knows: of the node, of the peers, of where a request went. They
are replaced where they stand; the rest is Envoy's.
Rules: Istio, "Telemetry", docs/api/Telemetry.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lateen.api.cel_syntax import Token, tokens
from lateen.pilot.translate.metric_labels import coalesce
from lateen.pilot.translate.peers import ENDPOINT_KEY, PEER_KEY, PEER_NAMESPACE
from lateen.wire.peer_env import PEER_ORDER, UNKNOWN
from lateen.wire.series import MAX_LABEL

__all__ = ["label_format", "to_envoy"]

_UNKNOWN: Final = ("CEL", f"'{UNKNOWN}'")
_PEERS: Final = {
    "upstream_peer": f"xds.upstream_host_metadata.filter_metadata['istio']['{ENDPOINT_KEY}']",
    "downstream_peer": f"metadata.filter_metadata['{PEER_NAMESPACE}']['{PEER_KEY}']",
}
# Names of Istio's for the parts of a peer -> ours.
_PARTS: Final = {
    **{name: name for name in PEER_ORDER},
    "name": "workload",
    "namespace": "workload_namespace",
    "service": "canonical_service",
    "revision": "canonical_revision",
    "cluster_id": "cluster",
}
_LABELS: Final = {
    "app": "app",
    "version": "version",
    "service.istio.io/canonical-name": "canonical_service",
    "service.istio.io/canonical-revision": "canonical_revision",
}
_XDS: Final = (
    "node",
    "cluster_name",
    "cluster_metadata",
    "route_name",
    "route_metadata",
    "listener_direction",
    "listener_metadata",
    "upstream_host_metadata",
    "filter_chain_name",
)


def label_format(expression: str) -> str:
    """Return the format of a label that `expression` gives."""
    return coalesce(("CEL", to_envoy(expression)), _UNKNOWN, longest=MAX_LABEL)


def to_envoy(expression: str) -> str:
    """Return an expression over Envoy's attributes that means what `expression` means over Istio's."""
    read = [token for token in tokens(expression) if token.kind != "end"]
    return " ".join(_rewritten(read))


def _rewritten(read: list[Token]) -> Iterator[str]:
    at = 0
    while at < len(read):
        token = read[at]
        at += 1
        free = token.kind == "name" and (at == 1 or read[at - 2].text != ".")
        if free and token.text in _PEERS:
            part, at = _part(read, at)
            yield _extract(_PEERS[token.text], part)
        elif free and token.text in _XDS:
            yield f"xds.{token.text}"
        else:
            yield token.text.replace(")%", r")\x25")  # as it is written it would end Envoy's command


def _part(read: list[Token], at: int) -> tuple[str, int]:
    """Return which part of a peer is named from `at` on, and where the expression goes on behind it."""
    name, at = _member(read, at)
    if name == "labels":
        label, at = _member(read, at)
        return _LABELS.get(label, ""), at
    return _PARTS.get(name, ""), at


def _member(read: list[Token], at: int) -> tuple[str, int]:
    texts = [token.text for token in read[at : at + 3]]
    if len(texts) >= 2 and texts[0] == "." and read[at + 1].kind == "name":
        return texts[1], at + 2
    if len(texts) == 3 and texts[0] == "[" and read[at + 1].kind == "string" and texts[2] == "]":
        return texts[1][1:-1], at + 3
    return "", at


def _extract(text: str, part: str) -> str:
    if not part:
        return f"'{UNKNOWN}'"  # a proxy tells no more of itself than the labels of the standard metrics
    place = PEER_ORDER.index(part)
    return f"re.extract({text}, '^(?:[^;]*;){{{place}}}([^;]*).*$', '\\\\1')"
