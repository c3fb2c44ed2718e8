"""Counters of Mixer's rules that Envoy keeps itself: its stats access logger.

In:  one `MixerCalls`. Out: access loggers of requests, and of connections when they end.
Rules: docs/design/0023-compiled-rules.md. Series have the bound and the life of the standard metrics'. Envoy puts
`envoy_` and `RULES_PREFIX` before every name; the agent, which serves them, takes both off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    LogTypeFilter,
)
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from envoy.extensions.access_loggers.stats.v3.stats_pb2 import Config
from google.protobuf.wrappers_pb2 import UInt64Value

from lateen.pilot.model.values_called import Count, MixerCalls
from lateen.pilot.translate.metric_labels import coalesce
from lateen.pilot.translate.mixer.inside import TEXTS
from lateen.pilot.translate.parts import cel_filter
from lateen.pilot.translate.telemetry import stats_logger
from lateen.wire.series import MAX_LABEL, RULES_PREFIX

__all__ = ["http_counts", "tcp_counts"]

_NOTHING: Final = ("CEL", "''")
_AT_THE_END: Final = AccessLogFilter(log_type_filter=LogTypeFilter(types=[AccessLogType.TcpConnectionEnd]))


def http_counts(calls: MixerCalls) -> tuple[AccessLog, ...]:
    return tuple(_logger(count, calls, ()) for count in calls.inside.counts)


def tcp_counts(calls: MixerCalls) -> tuple[AccessLog, ...]:
    return tuple(_logger(count, calls, (_AT_THE_END,)) for count in calls.inside.tcp_counts)


def _logger(count: Count, calls: MixerCalls, also: Sequence[AccessLogFilter]) -> AccessLog:
    formats = {
        label: coalesce(("CEL", text.of(vouched=calls.vouched)), _NOTHING, longest=MAX_LABEL)
        for label, text in count.labels
    }
    tags = [Config.Tag(name=label, value_format=form) for label, form in formats.items()]
    counter = Config.Counter(stat=Config.Stat(name=count.metric, tags=tags), value_fixed=UInt64Value(value=1))
    filters = [*also, *([] if count.when is None else [cel_filter(count.when.of(vouched=calls.vouched), TEXTS)])]
    when = None if not filters else filters[0]
    if len(filters) > 1:
        when = AccessLogFilter(and_filter=AndFilter(filters=filters))
    return stats_logger(Config(counters=[counter]), RULES_PREFIX, when=when)
