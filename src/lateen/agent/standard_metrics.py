"""The standard metrics as Istio writes them, from what Envoy counted.

In:  Prometheus text of Envoy, and the labels of its workload.
Out: the same text with families `istio_...` under their names and with all their labels. Envoy counts with few: what
     is the same for all its requests and what is unknown is put in here, and what it copied of a peer is taken apart.
     Series that then have the same labels are one: their values are added.
Rules: `lateen.pilot.translate.metric_labels`, docs/api/translation.md "Metrics". Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from lateen.wire.label_text import LABELS, fields_of
from lateen.wire.peer_env import LEFT_OUT, PEER_ORDER, UNKNOWN, unpack_peer
from lateen.wire.series import MAX_COUNTERS, MAX_HISTOGRAMS, RULES_PREFIX

__all__ = ["SERIES_LIMITS", "STANDARD_FAMILIES", "Labels", "complete", "series_of"]

ENVOYS_PREFIX: Final = "envoy_istio_"
PREFIX: Final = "istio_"
STANDARD_FAMILIES: Final = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "requests_total",
        "request_duration_milliseconds",
        "request_bytes",
        "response_bytes",
        "request_messages_total",
        "response_messages_total",
        "tcp_connections_opened_total",
        "tcp_connections_closed_total",
        "tcp_sent_bytes_total",
        "tcp_received_bytes_total",
    )
)
_OF_RULES: Final = re.compile(rf"^(# (?:TYPE|HELP) )?envoy_{RULES_PREFIX}_")
_SUFFIX: Final = re.compile(r"_(?:bucket|sum|count)$")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')
_CERTIFIED: Final = re.compile(r"^spiffe://[^/]+/ns/([^/]+)/sa/")
_SERVICE: Final = ("destination_service", "destination_service_name", "source_principal", "destination_principal")
MOST_SERIES: Final = MAX_COUNTERS + MAX_HISTOGRAMS  # whose labels are remembered: all of them

SERIES_LIMITS: Final = {"counter": MAX_COUNTERS, "histogram": MAX_HISTOGRAMS}
# Each series has one line that ends so; of a histogram's twenty-two it is its count.
_SERIES: Final = {
    "counter": re.compile(rb"^envoy_istio_\w+_total\{", re.MULTILINE),
    "histogram": re.compile(rb"^envoy_istio_\w+_count\{", re.MULTILINE),
}

Labels = Mapping[str, str]


def series_of(text: bytes) -> dict[str, int]:
    """Return how many series of Istio's families Envoy's text has, by kind as in `SERIES_LIMITS`."""
    return {kind: sum(1 for _ in pattern.finditer(text)) for kind, pattern in _SERIES.items()}


def complete(text: bytes, own: Labels) -> bytes:
    """Return Envoy's text with Istio's families whole. `own`: the fields of `PEER_ORDER` of the proxy's workload."""
    whole = _labels_for(tuple(own.get(name, "") or UNKNOWN for name in PEER_ORDER))
    lines: list[str] = []
    place: dict[str, int] = {}  # series of the family at hand -> its line
    for line in text.decode("utf-8", "replace").split("\n"):
        if line.startswith(ENVOYS_PREFIX):
            name, series, value = _parts(line)
            if _SUFFIX.sub("", name) in STANDARD_FAMILIES:
                series = whole(series)
            key = f"{name}{{{series}}}"
            if key in place:
                before = lines[place[key]].rpartition(" ")[2]
                value = f"{float(before) + float(value):.15g}"
                lines[place[key]] = f"{key} {value}"
                continue
            place[key] = len(lines)
            lines.append(f"{key} {value}")
        elif line.startswith(("# TYPE " + ENVOYS_PREFIX, "# HELP " + ENVOYS_PREFIX)):
            place.clear()
            lines.append(line.replace(ENVOYS_PREFIX, PREFIX, 1))
        elif RULES_PREFIX in line:
            lines.append(_OF_RULES.sub(lambda found: found[1] or "", line))
        else:
            lines.append(line)
    return "\n".join(lines).encode()


def _parts(line: str) -> tuple[str, str, str]:
    """Return name, labels and value of a sample."""
    series, _, value = line.rpartition(" ")
    name, _, labels = series.partition("{")
    return PREFIX + name.removeprefix(ENVOYS_PREFIX), labels.removesuffix("}"), value


@lru_cache(maxsize=8)
def _labels_for(own: tuple[str, ...]) -> _Completer:
    return _Completer(dict(zip(PEER_ORDER, own, strict=True)))


class _Completer:
    """Puts the labels of a series together; remembers what it did, since a histogram's lines repeat them."""

    def __init__(self, own: Labels) -> None:
        self._own = own
        self._known: dict[str, str] = {}

    def __call__(self, labels: str) -> str:
        # `le` is last where Envoy writes it, and it alone differs among a histogram's lines.
        rest, found, bound = f",{labels}".rpartition(',le="')
        if not found:
            rest, bound = bound, ""
        whole = self._known.get(rest)
        if whole is None:
            if len(self._known) >= MOST_SERIES:
                self._known.clear()
            whole = self._known[rest] = ",".join(
                f'{name}="{value}"' for name, value in sorted(self._completed(dict(_LABEL.findall(rest))).items())
            )
        return f'{whole},le="{bound}' if found else whole

    def _completed(self, told: dict[str, str]) -> dict[str, str]:
        fields = fields_of(told.pop(LABELS, ""))
        told = fields | told
        peer = unpack_peer(told.pop("peer", ""))
        reporter = fields.get("reporter") or told.get("reporter")
        here, there = ("source", "destination") if reporter == "source" else ("destination", "source")
        labels = {f"{here}_{name}": value for name, value in self._own.items()}
        labels |= {f"{there}_{name}": value for name, value in peer.items()}
        if peer["workload_namespace"] == UNKNOWN and there == "source":
            certified = _CERTIFIED.match(told.get("source_principal", ""))
            if certified is not None:
                labels["source_workload_namespace"] = certified[1]
        labels |= dict.fromkeys(_SERVICE, UNKNOWN)
        labels["destination_service_namespace"] = labels["destination_workload_namespace"]
        labels |= {name: value for name, value in told.items() if value or name not in labels}
        return {name: value for name, value in labels.items() if value != LEFT_OUT}
