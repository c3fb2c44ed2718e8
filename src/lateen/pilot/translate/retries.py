"""Retry policies of routes.

In:  api `HTTPRetry`, or `None` where nobody says anything.
Out: `envoy.config.route.v3.RetryPolicy`, `None` for no retries.
Rules: Istio `HTTPRetry` and the mesh's default, docs/api/translation.md "Retries".
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from envoy.config.route.v3.route_components_pb2 import RetryPolicy
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)

from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration, uint32

__all__ = ["build_inbound_retry_policy", "build_retry_policy"]

DEFAULT_RETRY_ON: Final = "connect-failure,refused-stream,unavailable,cancelled"
STATUS_CODES: Final = "retriable-status-codes"
DEFAULT_ATTEMPTS: Final = 2
HOST_ATTEMPTS: Final = 5  # how often another endpoint is drawn when the drawn one was tried already
REMOTE_PRIORITY_FREQUENCY: Final = 2
_KNOWN_CODES: Final = frozenset(int(status) for status in HTTPStatus)

_OTHER_HOSTS: Final = RetryPolicy.RetryHostPredicate(
    name="envoy.retry_host_predicates.previous_hosts", typed_config=pack(PreviousHostsPredicate())
)
_OTHER_PRIORITIES: Final = RetryPolicy.RetryPriority(
    name="envoy.retry_priorities.previous_priorities",
    typed_config=pack(PreviousPrioritiesConfig(update_frequency=REMOTE_PRIORITY_FREQUENCY)),
)


def _default(*, other_hosts: bool) -> RetryPolicy:
    return RetryPolicy(
        retry_on=f"{DEFAULT_RETRY_ON},{STATUS_CODES}",
        num_retries=uint32(DEFAULT_ATTEMPTS),
        retry_host_predicate=[_OTHER_HOSTS] if other_hosts else (),
        host_selection_retry_max_attempts=HOST_ATTEMPTS,
    )


_DEFAULT: Final = _default(other_hosts=True)
_DEFAULT_SAME_HOST: Final = _default(other_hosts=False)

# From a proxy to its own application: only what the application cannot have seen.
_INBOUND: Final = RetryPolicy(retry_on="reset-before-request", num_retries=uint32(DEFAULT_ATTEMPTS))


def build_retry_policy(retries: Any, *, consistent_hash: bool) -> RetryPolicy | None:
    """Return the policy for one route.

    `consistent_hash`: the route's one destination is picked by hash, so that another endpoint would be a wrong one;
    previous endpoints are then not avoided unless `retryIgnorePreviousHosts` says so.
    """
    if retries is None:
        return _DEFAULT_SAME_HOST if consistent_hash else _DEFAULT
    if not retries.attempts or retries.attempts < 0:
        return None
    avoid = retries.retry_ignore_previous_hosts
    retry_on, codes = _parse_retry_on(retries.retry_on or "")
    return RetryPolicy(
        retry_on=retry_on,
        num_retries=uint32(retries.attempts),
        per_try_timeout=duration(retries.per_try_timeout) if retries.per_try_timeout else None,
        retriable_status_codes=codes,
        retry_host_predicate=[_OTHER_HOSTS] if avoid or (avoid is None and not consistent_hash) else (),
        host_selection_retry_max_attempts=HOST_ATTEMPTS,
        retry_priority=_OTHER_PRIORITIES if retries.retry_remote_localities else None,
        retry_back_off=RetryPolicy.RetryBackOff(base_interval=duration(retries.backoff)) if retries.backoff else None,
    )


def build_inbound_retry_policy(retries: Any) -> RetryPolicy | None:
    """Return the policy from a proxy to its own application: how often, on what, how soon. There is one place to go."""
    if retries is None:
        return _INBOUND
    if not retries.attempts or retries.attempts < 0:
        return None
    retry_on, codes = _parse_retry_on(retries.retry_on or _INBOUND.retry_on)
    return RetryPolicy(
        retry_on=retry_on,
        num_retries=uint32(retries.attempts),
        retriable_status_codes=codes,
        retry_back_off=RetryPolicy.RetryBackOff(base_interval=duration(retries.backoff)) if retries.backoff else None,
    )


def _parse_retry_on(text: str) -> tuple[str, list[int]]:
    """Split `gateway-error,409` into Envoy's words and status codes."""
    if not text:
        return f"{DEFAULT_RETRY_ON},{STATUS_CODES}", []
    items = text.split(",")
    codes = [int(item) for item in items if item.isdecimal() and int(item) in _KNOWN_CODES]
    words = [item for item in items if not item.isdecimal()]
    if codes and STATUS_CODES not in words:
        words.append(STATUS_CODES)
    return ",".join(words), codes
