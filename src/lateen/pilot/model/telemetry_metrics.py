"""How the standard metrics are changed: the `metrics` of Telemetries, merged for one side.

In:  entries of each Telemetry in force, from the broadest to the narrowest. Out: `Metrics`, or None for no metrics.
Rules: Istio's Telemetry, docs/api/Telemetry.md "Metrics".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lateen.api.cel_syntax import CelSyntaxError, check_cel_syntax
from lateen.pilot.model.telemetry_providers import Reach
from lateen.pilot.model.values_telemetry import METRICS, Metrics

__all__ = ["is_known_metric", "merge_metrics", "metrics_named"]


def merge_metrics(levels: Sequence[Sequence[Any]], side: str, default: tuple[str, ...], reach: Reach) -> Metrics | None:
    """Return the metrics of one side; None: none of the providers in force takes any."""
    entries = [entry for level in levels for entry in level]
    names = next((_names(entry) for entry in reversed(entries) if entry.providers), default)
    provider = next((name for name in names if reach.takes_metrics(name)), None)
    if provider is None:
        return None
    state = _State()
    applies = default
    for entry in entries:
        # An entry that names no provider is for those of the entry before it.
        applies = _names(entry) or applies
        if provider.lower() in {name.lower() for name in applies}:
            for override in entry.overrides:
                state.apply(override, side)
    return state.result()


def metrics_named(match: Any) -> tuple[str, ...]:
    """Return the metrics that an override is for, by their names without prefix; () where there is no such metric."""
    if match is not None and match.custom_metric:
        name = match.custom_metric.removeprefix("istio_")
        return (name,) if is_known_metric(name) else ()
    if match is None or match.metric in (None, "ALL_METRICS"):
        return tuple(METRICS.values())
    return (METRICS[match.metric],)


def is_known_metric(name: str) -> bool:
    return name in METRICS.values()


def _names(entry: Any) -> tuple[str, ...]:
    return tuple(provider.name for provider in entry.providers)


class _State:
    """What overrides have come to so far."""

    def __init__(self) -> None:
        self._nothing = False
        self._off: dict[str, bool] = {}
        self._labels: dict[str, dict[str, str | None]] = {}

    def apply(self, override: Any, side: str) -> None:
        match = override.match
        if match is not None and match.mode not in ("CLIENT_AND_SERVER", side):
            return
        names = metrics_named(match)
        if len(names) == len(METRICS) and override.disabled:
            self._nothing = True
            return
        self._nothing = False  # whatever is said after that brings all metrics back
        for name in names:
            if override.disabled is not None:
                self._off[name] = override.disabled
            self._labels.setdefault(name, {}).update(_labels(override.tag_overrides))

    def result(self) -> Metrics | None:
        off = {name for name, is_off in self._off.items() if is_off}
        if self._nothing or off == set(METRICS.values()):
            return None
        return Metrics(
            off=tuple(sorted(off)),
            labels=tuple(
                (name, tuple(sorted(labels.items())))
                for name, labels in sorted(self._labels.items())
                if labels and name not in off
            ),
        )


def _labels(overrides: Any) -> Iterable[tuple[str, str | None]]:
    for name, override in overrides.items():
        if override.operation == "REMOVE":
            yield name, None
        elif override.value and name and is_expression(override.value):
            yield name, override.value


def is_expression(text: str) -> bool:
    """Tell whether Envoy could parse a text. One that it could not would cost the listener all its metrics."""
    try:
        check_cel_syntax(text)
    except CelSyntaxError:
        return False
    return True
