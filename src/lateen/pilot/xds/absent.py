"""What a delta client is told about a resource that it asked for and that does not exist.

The protocol's word is `removed_resources`. Envoy (tried with 1.40) takes that for endpoints: the cluster is there,
empty. For routes it does not: the listener that asked goes on waiting, without even a time limit, and a proxy that
starts never gets ready. So a route configuration that does not exist is told as an empty one: requests get 404.
"""

from __future__ import annotations

from typing import Final

from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.any_pb2 import Any as AnyMessage

from lateen.pilot.xds.frames import delta_prefix
from lateen.pilot.xds.type_urls import RDS

__all__ = ["ABSENT_VERSION", "absent_parts"]

ABSENT_VERSION: Final = "absent"  # a client that comes back with it knows that there is none


def absent_parts(type_url: str, name: str) -> tuple[bytes, bytes] | None:
    """Return prefix and body of a resource that stands for "does not exist"; None where a removal does it."""
    if type_url != RDS:
        return None
    message = RouteConfiguration(name=name)
    body: bytes = AnyMessage(type_url=RDS, value=message.SerializeToString()).SerializeToString()
    return delta_prefix(name, ABSENT_VERSION, len(body)), body
