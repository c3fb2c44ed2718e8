"""Quotas that each proxy keeps for itself, as Envoy's local rate limits: one filter a rule.

In:  one `MixerCalls`. Out: HTTP filters; what is said to whom they refuse.
Rules: docs/design/0023-compiled-rules.md. Requests are told apart by descriptors: whether the rule's condition holds,
and the texts that it counts by. What has none of these takes of a bucket that is never empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from envoy.config.core.v3.base_pb2 import RuntimeFractionalPercent
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import RateLimit
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import LocalRateLimitDescriptor, RateLimitDescriptor
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter,
    ResponseMapper,
)
from envoy.extensions.rate_limit_descriptors.expr.v3.expr_pb2 import Descriptor
from envoy.type.v3.http_status_pb2 import HttpStatus
from envoy.type.v3.percent_pb2 import FractionalPercent
from envoy.type.v3.token_bucket_pb2 import TokenBucket
from google.api.expr.v1alpha1.syntax_pb2 import Expr

from lateen.pilot.model.values_called import Limit, MixerCalls
from lateen.pilot.translate.mixer.inside import mark, marked, reply
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration, uint32

__all__ = ["http_limits", "limit_replies"]

FILTER: Final = "lateen.mixer.limit"
STAT_PREFIX: Final = "lateen_mixer"
MARK: Final = "limit"
MATCH: Final = "match"
MOST_KEYS: Final = 10_000  # of one rule, at one proxy; the ones that were used longest ago go first
_NEVER_EMPTY: Final = TokenBucket(
    max_tokens=4_294_967_295, tokens_per_fill=uint32(4_294_967_295), fill_interval=duration(timedelta(seconds=1))
)
_ALWAYS: Final = RuntimeFractionalPercent(
    default_value=FractionalPercent(numerator=100, denominator=FractionalPercent.HUNDRED)
)


def http_limits(calls: MixerCalls) -> tuple[HttpFilter, ...]:
    """Return a filter for each rule, each behind one that marks who got so far: Envoy's refusals are all alike."""
    return tuple(
        found
        for limit in calls.inside.limits
        for found in (mark(MARK, limit.rule), HttpFilter(name=FILTER, typed_config=pack(_filter(limit, calls))))
    )


def limit_replies(calls: MixerCalls) -> Iterator[ResponseMapper]:
    """Yield what makes each refusal say what its rule says."""
    for limit in calls.inside.limits:
        when = f'response.code_details == "local_rate_limited" && {marked(MARK, limit.rule)}'
        yield reply(when, limit.status, limit.body, ())


def _filter(limit: Limit, calls: MixerCalls) -> LocalRateLimit:
    bucket = TokenBucket(max_tokens=limit.limit, tokens_per_fill=uint32(limit.limit), fill_interval=duration(limit.per))
    common = {
        "stat_prefix": STAT_PREFIX,
        "status": HttpStatus(code=limit.status),
        "filter_enabled": _ALWAYS,
        "filter_enforced": _ALWAYS,
    }
    if limit.condition is None and not limit.by:
        return LocalRateLimit(token_bucket=bucket, **common)
    vouched = calls.vouched
    told = [] if limit.condition is None else [(MATCH, "true", limit.condition.tree(vouched=vouched))]
    told += [(f"by{place}", "", one.tree(vouched=vouched)) for place, one in enumerate(limit.by)]
    return LocalRateLimit(
        token_bucket=_NEVER_EMPTY,
        always_consume_default_token_bucket={"value": False},
        rate_limits=[RateLimit(actions=[_action(key, tree) for key, _, tree in told])],
        descriptors=[
            LocalRateLimitDescriptor(
                entries=[RateLimitDescriptor.Entry(key=key, value=value) for key, value, _ in told],
                token_bucket=bucket,
            )
        ],
        max_dynamic_descriptors=uint32(MOST_KEYS),
        **common,
    )


def _action(key: str, tree: bytes) -> RateLimit.Action:
    config = Descriptor(descriptor_key=key, parsed=Expr.FromString(tree))
    return RateLimit.Action(
        extension=TypedExtensionConfig(name="envoy.rate_limit_descriptors.expr", typed_config=pack(config))
    )
