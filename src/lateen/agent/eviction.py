"""How long Envoy keeps a series of the standard metrics that nobody touches: the annotation that says so.

In:  annotations of the workload. Out: seconds. Pure.
Rules: Istio's `sidecar.istio.io/statsEvictionInterval`; Envoy takes multiples of the time between two flushes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from lateen.api.scalars import parse_duration
from lateen.errors import BadInput
from lateen.wire.series import EVICTION_SECONDS

__all__ = ["ANNOTATION", "FLUSH_SECONDS", "eviction_seconds"]

ANNOTATION: Final = "sidecar.istio.io/statsEvictionInterval"
FLUSH_SECONDS: Final = 5


def eviction_seconds(annotations: Mapping[str, str]) -> int:
    """Return what the annotation says, 0 for never; without it our own choice. Raises `BadInput`."""
    text = annotations.get(ANNOTATION)
    if text is None:
        return EVICTION_SECONDS
    try:
        interval = parse_duration(text)
    except ValueError as error:
        raise BadInput(f"annotation {ANNOTATION}: {error}, got {text!r}") from error
    if interval < timedelta(0) or interval % timedelta(seconds=FLUSH_SECONDS):
        raise BadInput(
            f"annotation {ANNOTATION}: must be a multiple of {FLUSH_SECONDS}s, at which statistics are flushed, "
            f"or 0s for never, got {text!r}"
        )
    return int(interval.total_seconds())
