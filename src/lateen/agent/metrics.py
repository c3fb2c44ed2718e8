"""Metrics as Prometheus scrapes them: text of what the agent itself counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["CONTENT_TYPE", "Metric", "format_metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric with its samples: (labels, value) each."""

    name: str
    kind: str  # "counter" | "gauge"
    help: str
    samples: tuple[tuple[tuple[tuple[str, str], ...], float], ...]


def format_metrics(metrics: Iterable[Metric]) -> bytes:
    """Return metrics as Prometheus text."""
    lines: list[str] = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {metric.help}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for labels, value in metric.samples:
            inside = ",".join(f'{name}="{_escape(text)}"' for name, text in labels)
            lines.append(f"{metric.name}{{{inside}}} {value:.15g}" if inside else f"{metric.name} {value:.15g}")
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
