"""Leave out of a probe the access loggers that Envoy took before. Pure.

They cost Envoy more than the rest of a listener, and nearly all of a mesh are the same few. A logger is good or bad in
whichever filter of its kind it is, so each is judged once, with the first listener that has it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from hashlib import blake2b
from typing import Any, Final

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.any_pb2 import Any as AnyMessage

__all__ = ["filters_of", "leave_out_loggers"]

_PREFIX: Final = "type.googleapis.com/"
_HOLDERS: Final = {_PREFIX + kind.DESCRIPTOR.full_name: kind for kind in (HttpConnectionManager, TcpProxy)}


def leave_out_loggers(listener: Listener, known: Container[bytes]) -> tuple[bytes, ...]:
    """Take known access loggers out of a listener's filters; return the keys of those that are left."""
    left: list[bytes] = []
    for packed in filters_of(listener):
        kind = _HOLDERS.get(packed.type_url)
        if kind is None:
            continue
        holder = kind.FromString(packed.value)
        if not holder.access_log:
            continue
        unknown = [(key, logger) for logger in holder.access_log if (key := _key(packed.type_url, logger)) not in known]
        left.extend(key for key, _ in unknown)
        if len(unknown) < len(holder.access_log):
            loggers = [logger for _, logger in unknown]
            del holder.access_log[:]
            holder.access_log.extend(loggers)
            packed.value = holder.SerializeToString(deterministic=True)
    return tuple(dict.fromkeys(left))


def filters_of(listener: Listener) -> Iterator[AnyMessage]:
    """Yield the configurations of all network filters of a listener."""
    for chain in listener.filter_chains:
        yield from (entry.typed_config for entry in chain.filters)
    yield from (entry.typed_config for entry in listener.default_filter_chain.filters)


def _key(type_url: str, logger: Any) -> bytes:
    return blake2b(type_url.encode() + logger.SerializeToString(deterministic=True), digest_size=16).digest()
