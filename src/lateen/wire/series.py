"""How many series of the standard metrics one proxy keeps, and for how long.

Every combination of labels is a series, and some labels are what others say: the host that an application asks for,
what a peer's proxy tells of itself, whatever a Telemetry makes of a request. So both their number and their length have
an end. A histogram is told in twenty-two lines that repeat all labels, so it is histograms that decide what a scrape
weighs: some 30 MB of labels as they usually are. Those who read them (`agent.admin`, `pilot.serving.metrics_endpoint`)
take them at their longest, too; were it not so, whoever makes up labels could keep a workload's metrics from being
read.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "EVICTION_SECONDS",
    "MAX_COUNTERS",
    "MAX_HISTOGRAMS",
    "MAX_HOST",
    "MAX_LABEL",
    "MAX_PEER",
    "MAX_SCRAPE_BYTES",
    "MAX_TOLD_BYTES",
    "RULES_PREFIX",
]

RULES_PREFIX: Final = "lateen_rule"  # of counters that rules of Mixer have; whoever reads them does not see it

MAX_COUNTERS: Final = 5_000
MAX_HISTOGRAMS: Final = 3_000  # three for each combination of labels: 1,000 of those

MAX_HOST: Final = 255  # characters; no name of DNS is longer
MAX_PEER: Final = 512  # of all seven labels together; each has at most 63
MAX_LABEL: Final = 128  # of one that a Telemetry's expression gives

# What was not touched between one and the next makes room. A series that comes back starts at 0, which Prometheus takes
# for a restart; so it is long enough that what is used at all stays.
EVICTION_SECONDS: Final = 3600

MAX_SCRAPE_BYTES: Final = 112 << 20  # all series at their longest, as Envoy tells them, and its own
MAX_TOLD_BYTES: Final = 144 << 20  # the same as agents tell them, with their application's
