"""When to renew a certificate: at half of its life, spread a little so that a mesh does not renew all at once."""

from __future__ import annotations

from datetime import datetime

__all__ = ["MAX_JITTER", "renewal_time"]

MAX_JITTER = 0.1  # of the lifetime, to either side: certificates of 24 h that began together renew over almost 5 h


def renewal_time(not_before: datetime, not_after: datetime, jitter_fraction: float) -> datetime:
    """Return the moment to renew: half life plus `jitter_fraction` of the lifetime, drawn from +-`MAX_JITTER`.

    Pure, so the caller draws (`random.uniform(-MAX_JITTER, MAX_JITTER)`). A draw outside of the range counts as the
    nearest inside. A moment in the past means: now.
    """
    share = 0.5 + min(max(jitter_fraction, -MAX_JITTER), MAX_JITTER)
    return not_before + (not_after - not_before) * share
