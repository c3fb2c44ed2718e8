"""Count what was sent and answered, by type. Tests assert the wire budget of a change on these."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["Stats", "TypeStats"]


@dataclass(slots=True)
class TypeStats:
    """Sums since the start, over all streams."""

    responses: int = 0
    resources: int = 0
    removed: int = 0
    sent_bytes: int = 0
    acks: int = 0
    nacks: int = 0
    stale: int = 0  # answers to a response that was no longer in flight


@dataclass(slots=True)
class Stats:
    by_type: dict[str, TypeStats] = field(default_factory=dict)  # by type URL; only types that are served

    def of(self, type_url: str) -> TypeStats:
        """Return the sums of one type, to add to; zeros before its first use."""
        stats = self.by_type.get(type_url)
        if stats is None:
            stats = self.by_type[type_url] = TypeStats()
        return stats

    def snapshot(self) -> dict[str, TypeStats]:
        """Return a copy to compare with later."""
        return {type_url: replace(stats) for type_url, stats in self.by_type.items()}

    @property
    def resources(self) -> int:
        return sum(stats.resources for stats in self.by_type.values())

    @property
    def removed(self) -> int:
        return sum(stats.removed for stats in self.by_type.values())

    @property
    def responses(self) -> int:
        return sum(stats.responses for stats in self.by_type.values())

    @property
    def sent_bytes(self) -> int:
        return sum(stats.sent_bytes for stats in self.by_type.values())
