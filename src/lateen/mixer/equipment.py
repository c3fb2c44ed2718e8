"""What rules need beside themselves, and the sums of what they decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lateen.expr.lists import ValueList
from lateen.mixer.adapter import CheckAdapter, ReportAdapter
from lateen.mixer.logbook import Logbook
from lateen.mixer.meters import Meters
from lateen.mixer.quotas import Quota, SharedQuota

__all__ = ["EngineStats", "Equipment"]


@dataclass(slots=True)
class EngineStats:
    """Sums since the start: (rule, result) -> count."""

    results: Counter[tuple[str, str]] = field(default_factory=Counter)
    reported: Counter[tuple[str, str]] = field(default_factory=Counter)  # (rule, "taken" or "dropped")


@dataclass(frozen=True, slots=True)
class Equipment:
    """What rules need beside themselves, by the rule's name; missing where it cannot be had."""

    list_of: Callable[[str], ValueList | None]  # as it is now
    quotas: Mapping[str, Quota]
    shared: Mapping[str, SharedQuota]
    adapters: Mapping[tuple[str, str], CheckAdapter]  # (rule, part)
    sinks: Mapping[tuple[str, str], ReportAdapter]
    note: Callable[[str, str, str], None]  # rule, part, why it could not be asked
    logbook: Logbook
    meters: Meters
    metrics: frozenset[str]  # rules whose metric can be counted
    stats: EngineStats
