"""The metrics of one workload as Prometheus scrapes them: Envoy's, under Istio's names, and the agent's own.

Envoy puts `envoy_` before every name that it writes; dashboards expect `istio_requests_total`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["CONTENT_TYPE", "Metric", "format_metrics", "merge", "rename_istio"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# At the start of a line only: a label's value may hold the same letters.
_ISTIO: Final = re.compile(rb"^((?:# (?:TYPE|HELP) )?)envoy_istio_", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric with its samples: (labels, value) each."""

    name: str
    kind: str  # "counter" | "gauge"
    help: str
    samples: tuple[tuple[tuple[tuple[str, str], ...], float], ...]


def rename_istio(text: bytes) -> bytes:
    """Return Prometheus text with `envoy_istio_...` families as `istio_...`; everything else as it is."""
    return _ISTIO.sub(rb"\1istio_", text)


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


def merge(agent: bytes, envoy: bytes) -> bytes:
    """Return the agent's text and then Envoy's, under Istio's names."""
    return agent + rename_istio(envoy)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
