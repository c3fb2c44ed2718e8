"""Metrics that rules report, as Prometheus reads them: counters, gauges, histograms, with a bound on their series."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from lateen.api.mixer import MetricReport

__all__ = ["Meters", "escaped"]

MOST_SERIES: Final = 10_000  # of one metric; labels come from clients
BUCKETS: Final = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
Labels = tuple[str, ...]


@dataclass(slots=True)
class _Meter:
    kind: str
    names: tuple[str, ...]
    buckets: tuple[float, ...]
    values: dict[Labels, float] = field(default_factory=dict)
    counts: dict[Labels, list[int]] = field(default_factory=dict)  # of a histogram: a bucket, and the rest


class Meters:
    """All metrics of rules, by name. Two rules may add to one metric if they agree on what it is."""

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}
        self.dropped = 0

    def fault(self, spec: MetricReport) -> str:
        """Return why a metric cannot be counted; "" for none. Counts it from now on."""
        wanted = _Meter(spec.kind, tuple(sorted(spec.labels)), tuple(spec.buckets) or BUCKETS)
        known = self._meters.setdefault(spec.name, wanted)
        if (known.kind, known.names, known.buckets) != (wanted.kind, wanted.names, wanted.buckets):
            return f"another rule counts {spec.name} as a {known.kind} by {', '.join(known.names) or 'no label'}"
        return ""

    def keep(self, names: frozenset[str]) -> None:
        """Forget metrics that no rule counts any more."""
        for name in [name for name in self._meters if name not in names]:
            del self._meters[name]

    def add(self, name: str, labels: Labels, value: float) -> bool:
        """Count one; False: it would be one series too many, and is dropped. `labels` are sorted by their names."""
        meter = self._meters[name]
        if labels not in meter.values and len(meter.values) >= MOST_SERIES:
            self.dropped += 1
            return False
        if meter.kind == "GAUGE":
            meter.values[labels] = value
            return True
        meter.values[labels] = meter.values.get(labels, 0.0) + value
        if meter.kind == "HISTOGRAM":
            counts = meter.counts.setdefault(labels, [0] * (len(meter.buckets) + 1))
            counts[bisect_left(meter.buckets, value)] += 1
        return True

    def text(self) -> str:
        """Return Prometheus' text."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for name, meter in sorted(self._meters.items()):
            yield f"# TYPE {name} {meter.kind.lower()}"
            for labels, value in meter.values.items():
                pairs = [f'{key}="{escaped(text)}"' for key, text in zip(meter.names, labels, strict=True)]
                if meter.kind != "HISTOGRAM":
                    yield f"{name}{{{','.join(pairs)}}} {value:.15g}" if pairs else f"{name} {value:.15g}"
                    continue
                total = 0
                for bound, count in zip((*meter.buckets, float("inf")), meter.counts[labels], strict=True):
                    total += count
                    edge = "+Inf" if bound == float("inf") else f"{bound:g}"
                    inner = ",".join([*pairs, f'le="{edge}"'])
                    yield f"{name}_bucket{{{inner}}} {total}"
                inside = f"{{{','.join(pairs)}}}" if pairs else ""
                yield f"{name}_sum{inside} {value:.15g}"
                yield f"{name}_count{inside} {total}"


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
