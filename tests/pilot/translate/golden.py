"""Write messages as YAML that people can review: packed messages opened, constants named instead of repeated."""

from __future__ import annotations

import json
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from lateen.pilot.model.values_telemetry import STANDARD_METRICS, Telemetry
from lateen.pilot.translate import (
    alpn,
    chains,
    claims,
    cluster_policy,
    grpc_messages,
    http_manager,
    parts,
    peers,
    retries,
    telemetry,
    tls,
)
from lateen.wire.label_text import SEPARATOR

NO_MESSAGES = grpc_messages.without_messages(Telemetry()).metrics
CONSTANTS: dict[str, Message] = {
    "ADS_PATIENT": parts.ADS_PATIENT,
    "ADS": parts.ADS,
    "ALPN_FILTER": alpn.ALPN_FILTER,
    "FROM_AGENT": tls.secret("default").sds_config,
    "FROM_AGENT_FILES": tls.secret("file-root:system").sds_config,
    "COUNT_MESSAGES": grpc_messages.COUNT_MESSAGES,
    "GRPC_STATS": http_manager.INBOUND_FILTERS[0],
    "HTTP_INSPECTOR": chains.HTTP_INSPECTOR,
    "NO_LIMITS": cluster_policy.NO_LIMITS,
    "ORIGINAL_DST": chains.ORIGINAL_DST,
    "READ_PEER": peers.READ_PEER,
    "RAW_BUFFER": tls.RAW_BUFFER,
    "RETRY_DEFAULT": retries.build_retry_policy(None, consistent_hash=False),
    "SEND_PEER": peers.SEND_PEER[0],
    "STRIP_CLAIMS": claims.STRIP_CLAIMS,
    "STRIP_DISGUISES": claims.STRIP_DISGUISES,
    "STRIP_PEER": peers.STRIP_PEER,
    "TLS_INSPECTOR": chains.TLS_INSPECTOR,
    "UPSTREAM_CODEC": peers.SEND_PEER[1],
    "FAULT": http_manager.INBOUND_FILTERS[-3],
    "CORS": http_manager.INBOUND_FILTERS[-2],
    "ROUTER": http_manager.INBOUND_FILTERS[-1],
    "STATS_GATEWAY_HTTP": telemetry.gateway_http_loggers(STANDARD_METRICS)[0],
    "STATS_GATEWAY_GRPC": telemetry.gateway_http_loggers(STANDARD_METRICS)[1],
    "STATS_OUTBOUND_HTTP": telemetry.outbound_http_loggers(STANDARD_METRICS)[0],
    "STATS_OUTBOUND_GRPC": telemetry.outbound_http_loggers(STANDARD_METRICS)[1],
    "STATS_OUTBOUND_TCP_OPENED": telemetry.outbound_tcp_loggers(STANDARD_METRICS)[0],
    "STATS_OUTBOUND_TCP_CLOSED": telemetry.outbound_tcp_loggers(STANDARD_METRICS)[1],
    "STATS_INBOUND_HTTP_MTLS": telemetry.inbound_http_loggers(STANDARD_METRICS, mtls=True)[0],
    "STATS_INBOUND_HTTP_PLAIN": telemetry.inbound_http_loggers(STANDARD_METRICS, mtls=False)[0],
    "STATS_INBOUND_GRPC_MTLS": telemetry.inbound_http_loggers(STANDARD_METRICS, mtls=True)[1],
    "STATS_INBOUND_GRPC_PLAIN": telemetry.inbound_http_loggers(STANDARD_METRICS, mtls=False)[1],
    "STATS_INBOUND_GRPC_MTLS_NO_MESSAGES": telemetry.inbound_http_loggers(NO_MESSAGES, mtls=True)[1],
    "STATS_INBOUND_GRPC_PLAIN_NO_MESSAGES": telemetry.inbound_http_loggers(NO_MESSAGES, mtls=False)[1],
    "STATS_INBOUND_TCP_MTLS_OPENED": telemetry.inbound_tcp_loggers(STANDARD_METRICS, mtls=True)[0],
    "STATS_INBOUND_TCP_MTLS_CLOSED": telemetry.inbound_tcp_loggers(STANDARD_METRICS, mtls=True)[1],
    "STATS_INBOUND_TCP_PLAIN_OPENED": telemetry.inbound_tcp_loggers(STANDARD_METRICS, mtls=False)[0],
    "STATS_INBOUND_TCP_PLAIN_CLOSED": telemetry.inbound_tcp_loggers(STANDARD_METRICS, mtls=False)[1],
}


def dump(message: Message, *, shorten: bool = True) -> str:
    """Return `message` as YAML; with `shorten`, constants within it are told by their names: `<READ_PEER>`."""
    content = to_dict(message)
    return yaml.dump(_spread(_shorten(content) if shorten else content), Dumper=_Plain, width=120)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_dict(message: Message) -> Any:
    return json.loads(json.dumps(MessageToDict(message, preserving_proto_field_name=True)))  # plain dicts for YAML


def _key(content: Any) -> str:
    return json.dumps(content, sort_keys=True)


_NAMES = {_key(to_dict(message)): f"<{name}>" for name, message in CONSTANTS.items()}


def _shorten(content: Any) -> Any:
    if isinstance(content, dict):
        name = _NAMES.get(_key(content))
        return name or {key: _shorten(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_shorten(item) for item in content]
    return content


def _spread(content: Any) -> Any:
    """Return `content` with the fields of a text of labels a line each."""
    if isinstance(content, dict):
        return {key: _spread(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_spread(item) for item in content]
    return content.split(SEPARATOR) if isinstance(content, str) and SEPARATOR in content else content
