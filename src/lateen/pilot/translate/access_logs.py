"""The access log that people read.

In:  one `AccessLog` value.
Out: `envoy.config.accesslog.v3.AccessLog`s: () when there is none, else one that writes to a file.
Rules: Istio's default formats, docs/api/translation.md "Access logs".
"""

from __future__ import annotations

import json
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog as EnvoyAccessLog
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter, ResponseFlagFilter
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog

from lateen.pilot.model.values import AccessLog
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import struct

__all__ = ["DEFAULT_JSON", "DEFAULT_TEXT", "file_loggers", "listener_loggers"]

# The formats are Istio's, because log pipelines parse them.
DEFAULT_TEXT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" '
    "%UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
DEFAULT_JSON: Final = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
# A listener itself logs only what no filter chain took; everything else is logged by the chain.
_NO_CHAIN: Final = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["NR"]))


def file_loggers(log: AccessLog) -> tuple[EnvoyAccessLog, ...]:
    """Return the logger of a filter chain."""
    return _loggers(log, None)


def listener_loggers(log: AccessLog) -> tuple[EnvoyAccessLog, ...]:
    """Return the logger of a listener, for connections that no filter chain took."""
    return _loggers(log, _NO_CHAIN)


def _loggers(log: AccessLog, when: AccessLogFilter | None) -> tuple[EnvoyAccessLog, ...]:
    if not log.path:
        return ()
    config = FileAccessLog(path=log.path, log_format=_json(log.format) if log.json else _text(log.format))
    return (EnvoyAccessLog(name="envoy.access_loggers.file", filter=when, typed_config=pack(config)),)


def _text(written: str) -> SubstitutionFormatString:
    text = written or DEFAULT_TEXT
    return SubstitutionFormatString(
        text_format_source=DataSource(inline_string=text if text.endswith("\n") else f"{text}\n")
    )


def _json(written: str) -> SubstitutionFormatString:
    """Return a JSON format. What is no JSON object is told by `lateen.api`; here it falls back to the default."""
    try:
        fields: Any = json.loads(written) if written else DEFAULT_JSON
    except ValueError:
        fields = DEFAULT_JSON
    return SubstitutionFormatString(json_format=struct(fields if isinstance(fields, dict) else DEFAULT_JSON))
