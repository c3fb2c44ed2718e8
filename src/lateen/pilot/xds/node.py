"""Check the node and the identity that a stream begins with: their shape, not their truth.

In:  `core.v3.Node`, the transport's proof. Out: `NodeInfo`, `Identity`. Whether to believe them is the source's to say.
Form of the id: `<type>~<ip>~<name>.<namespace>~<domain>`, as Istio's proxies give it.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Final

from lateen.errors import BadInput, Refused
from lateen.pilot.xds.source import Identity, NodeInfo
from lateen.wire.peer import AuthContext, peer_spiffe_id
from lateen.wire.texts import tamed

__all__ = ["Trust", "parse_identity", "parse_node"]

MAX_ID_BYTES: Final = 1_024
MAX_METADATA_BYTES: Final = 64 << 10  # LABELS, PROXY_CONFIG and the like are a few kB
MAX_DEPTH: Final = 16  # of structs and lists in the metadata
_ID_PARTS: Final = 4


class Trust(Enum):
    """What proves who is at the other end of a listening socket's connections."""

    MUTUAL_TLS = "the client certificate"
    LOCAL = "the folder that the socket is in"


def parse_node(node: Any) -> NodeInfo:
    """Return the parts of a `core.v3.Node` that matter. Raises `BadInput`."""
    if len(node.id) > MAX_ID_BYTES or len(node.cluster) > MAX_ID_BYTES:
        raise BadInput(
            f"node id or cluster of {max(len(node.id), len(node.cluster))} characters, at most {MAX_ID_BYTES} wanted"
        )
    if not (node.id.isprintable() and node.cluster.isprintable()):
        raise BadInput("node id or cluster with characters that are not printed")  # they go into logs and tables
    parts = node.id.split("~")
    if len(parts) != _ID_PARTS or not all(parts):
        raise BadInput(f"node id {node.id!r}, wanted the form 'type~ip~name.namespace~domain'")
    size_bytes = node.metadata.ByteSize()
    if size_bytes > MAX_METADATA_BYTES:
        raise BadInput(f"node metadata of {size_bytes} bytes, at most {MAX_METADATA_BYTES} wanted")
    build = node.user_agent_build_version.version
    version = node.user_agent_version or (
        f"{build.major_number}.{build.minor_number}.{build.patch}" if node.HasField("user_agent_build_version") else ""
    )
    return NodeInfo(
        id=node.id,
        cluster=node.cluster,
        metadata=_plain_struct(node.metadata, 1),
        user_agent_version=tamed(version, MAX_ID_BYTES),
    )


def parse_identity(context: AuthContext, trust: Trust) -> Identity:
    """Return who a gRPC call's transport proves. Raises `Refused` where a certificate is wanted and proves nothing."""
    if trust is Trust.LOCAL:
        return Identity(spiffe_id=None)
    spiffe_id = peer_spiffe_id(context)
    if spiffe_id is None:  # X.509-SVID, section 2
        raise Refused("client certificate without exactly one URI name, a workload's SPIFFE ID")
    return Identity(spiffe_id=spiffe_id)


def _plain_struct(struct: Any, depth: int) -> dict[str, object]:
    if depth > MAX_DEPTH:
        raise BadInput(f"node metadata nested deeper than {MAX_DEPTH}")
    return {key: _plain(value, depth) for key, value in struct.fields.items()}


def _plain(value: Any, depth: int) -> object:
    match value.WhichOneof("kind"):
        case "string_value":
            return str(value.string_value)
        case "number_value":
            number = float(value.number_value)
            return number if math.isfinite(number) else None
        case "bool_value":
            return bool(value.bool_value)
        case "struct_value":
            return _plain_struct(value.struct_value, depth + 1)
        case "list_value":
            if depth >= MAX_DEPTH:
                raise BadInput(f"node metadata nested deeper than {MAX_DEPTH}")
            return [_plain(item, depth + 1) for item in value.list_value.values]
        case _:
            return None
