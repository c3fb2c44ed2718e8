"""Leave without dropping what is in flight: Envoy drains, and the agent waits until nothing is left, or time is over.

Rules: Istio's termination drain, docs/design/0005-agent.md "Leaving". Here an idle workload does not wait at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from lateen.agent.admin import Admin
from lateen.errors import Unavailable

__all__ = ["ACTIVE_STATS", "active_work", "drain"]

ACTIVE_STATS: Final = "^(http|tcp).*downstream_(rq|cx)_active$"
LOOK_SECONDS: Final = 0.05
# The endpoint is gone from the control plane before the drain begins; this long its clients may still not know.
SETTLE_SECONDS: Final = 0.3

_HTTP: Final = ".downstream_rq_active"  # requests; idle connections of HTTP have nothing to lose
_TCP: Final = ".downstream_cx_active"  # connections, since nobody knows what they are in the middle of
_INBOUND: Final = ("http.inbound_", "http.InboundPassthroughCluster", "tcp.inbound|", "tcp.InboundPassthroughCluster")
_OWN: Final = ("http.admin.", "http.stats.")


def active_work(stats: Mapping[str, int], *, inbound_only: bool) -> int:
    """Return how many HTTP requests and TCP connections are in progress."""
    return sum(
        value
        for name, value in stats.items()
        if (name.endswith(_HTTP) if name.startswith("http.") else name.startswith("tcp.") and name.endswith(_TCP))
        and not name.startswith(_OWN)
        and (not inbound_only or name.startswith(_INBOUND))
    )


async def drain(
    admin: Admin,
    *,
    inbound_only: bool,
    seconds: float,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] | None = None,
) -> int:
    """Drain, and return how much was still in progress in the end: 0 unless `seconds` were over. Does not raise."""
    clock = clock or asyncio.get_running_loop().time
    began = clock()
    left = 0
    try:
        await admin.drain_listeners(inbound_only=inbound_only)
        while (now := clock() - began) < seconds:
            left = active_work(await admin.stats(ACTIVE_STATS), inbound_only=inbound_only)
            if left == 0 and now >= SETTLE_SECONDS:
                return 0
            await sleep(LOOK_SECONDS)
    except Unavailable:
        return 0  # no Envoy, so nothing in progress
    return left
