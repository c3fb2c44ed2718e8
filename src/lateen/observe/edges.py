"""From Istio's standard metrics to what a person wants to know of each edge: how much, how well, how fast, how safe.

In:  the Prometheus text of every workload. Out: one `Edge` for each pair of workloads that spoke since the last look.
Counts and times are the client's (it also sees what never arrived); whether it was mutual TLS is the server's word.
Where a client has no proxy, the server's word is all there is, and counts. Of connections of bytes a server knows the
client's identity and not its workload: that is found among the clients of that identity that tell of such connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Edge", "Sample", "Totals", "edges_between", "parse_metrics", "quantile", "total"]

_LINE = re.compile(r"^(istio_[a-z_]+)\{(.*)\} ([0-9.eE+-]+|NaN|\+Inf)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
UNKNOWN = "unknown"

# What a server counts with how it was reached; what a policy refused was reached as well.
_SECURED = ("istio_requests_total", "istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total")

Pair = tuple[str, str]  # (source workload, destination workload)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a metric."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(slots=True)
class _Side:
    """What the proxy of one end has counted since it started."""

    requests: float = 0
    failures: float = 0  # answers of 5xx, and requests that got none
    refused: float = 0  # answers of 401 and 403: by a policy, or by the application
    buckets: dict[float, float] = field(default_factory=dict)  # upper bound in ms -> requests up to it
    connections: float = 0  # of bytes
    octets: float = 0  # of them, both ways
    grpc: bool = False


@dataclass(slots=True)
class Totals:
    """Counters of one edge since its proxies started."""

    client: _Side = field(default_factory=_Side)
    server: _Side = field(default_factory=_Side)
    mutual_tls: float = 0  # requests and connections, as the server counts them
    plain: float = 0

    @property
    def told(self) -> _Side:
        """What counts: the client's word, or the server's where the client has no proxy."""
        client = self.client
        return client if client.requests or client.connections else self.server


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One edge over one interval."""

    source: str
    destination: str
    protocol: str  # http, grpc or tcp
    requests: float  # in all since the proxies started; connections of tcp
    requests_per_second: float
    success_ratio: float  # 0..1
    refused: float  # in all, with 401 or 403; of connections nobody counts that by client
    p50_ms: float | None  # None: nothing was timed
    p90_ms: float | None
    p99_ms: float | None
    bytes_per_second: float  # of tcp, both ways
    mutual_tls: bool | None  # None: the server's proxy has not said


def parse_metrics(text: str) -> Iterable[Sample]:
    """Yield Istio's standard metrics of a Prometheus text; other lines are passed over.

    Labels tell what peers say of themselves. So a line ends where that format ends it, not where `splitlines` would,
    and what would command a terminal is shown as `?`.
    """
    for line in text.split("\n"):
        found = _LINE.match(line)
        if found:
            labels = {name: _printable(value) for name, value in _LABEL.findall(found[2])}
            yield Sample(found[1], labels, float(found[3]))


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def total(samples: Iterable[Sample]) -> dict[Pair, Totals]:
    """Add up the samples of all workloads by edge."""
    edges: dict[Pair, Totals] = {}
    callers: dict[Pair, set[str]] = {}  # (identity, destination) -> workloads that say they called it
    nameless: dict[Pair, Totals] = {}  # (identity, destination) -> what the server counts
    for sample in samples:
        labels = sample.labels
        source, identity = labels.get("source_workload", UNKNOWN), labels.get("source_principal", UNKNOWN)
        destination = labels.get("destination_workload", UNKNOWN)
        if destination == UNKNOWN:
            destination = labels.get("destination_service_name", UNKNOWN)
        if source == UNKNOWN and "/sa/" in identity and labels.get("reporter") == "destination":
            edge = nameless.setdefault((identity, destination), Totals())
        else:
            edge = edges.setdefault((source, destination), Totals())
            if labels.get("reporter") == "source":
                callers.setdefault((identity, destination), set()).add(source)
        _add(edge, sample, labels)
    for (identity, destination), counted in nameless.items():
        named = callers.get((identity, destination), set())
        for source in named:
            edge = edges[source, destination]
            edge.mutual_tls += counted.mutual_tls
            edge.plain += counted.plain
        if not named:  # its proxy is elsewhere: the account is all that is known
            edges[f"{UNKNOWN} ({identity.rpartition('/sa/')[2]})", destination] = counted
    return edges


def _add(edge: Totals, sample: Sample, labels: Mapping[str, str]) -> None:
    from_source = labels.get("reporter") == "source"
    side = edge.client if from_source else edge.server
    match sample.name:
        case "istio_requests_total":
            side.requests += sample.value
            code = labels.get("response_code", "")
            side.failures += sample.value if code.startswith("5") or code == "0" else 0
            side.refused += sample.value if code in ("401", "403") else 0
            side.grpc = side.grpc or labels.get("request_protocol") == "grpc"
        case "istio_tcp_connections_opened_total":
            side.connections += sample.value
        case "istio_tcp_sent_bytes_total" | "istio_tcp_received_bytes_total":
            side.octets += sample.value
        case "istio_request_duration_milliseconds_bucket":
            bound = float(labels.get("le", "inf").replace("+Inf", "inf"))
            side.buckets[bound] = side.buckets.get(bound, 0) + sample.value
    if not from_source and sample.name in _SECURED:
        if labels.get("connection_security_policy") == "mutual_tls":
            edge.mutual_tls += sample.value
        else:
            edge.plain += sample.value


def edges_between(before: Mapping[Pair, Totals], now: Mapping[Pair, Totals], seconds: float) -> list[Edge]:
    """Return what happened between two looks, `seconds` apart, on every edge that exists, by name."""
    found = []
    for pair in sorted(now):
        new = now[pair]
        was = before.get(pair, Totals())
        told, old = new.told, (was.client if new.told is new.client else was.server)
        requests = max(told.requests - old.requests, 0)
        connections = max(told.connections - old.connections, 0)
        if not requests and not connections and not (new.mutual_tls or new.plain):
            continue  # nobody ever answered there, and nobody asks any more
        http = bool(told.requests) or not told.connections
        failures = max(told.failures - old.failures, 0)
        buckets = {bound: max(count - old.buckets.get(bound, 0), 0) for bound, count in told.buckets.items()}
        if not any(buckets.values()):
            buckets = told.buckets  # quiet: what was, not nothing
        found.append(
            Edge(
                source=pair[0],
                destination=pair[1],
                protocol="grpc" if told.grpc else "http" if http else "tcp",
                requests=told.requests if http else told.connections,
                requests_per_second=(requests if http else connections) / seconds,
                success_ratio=_success(requests, failures) if requests else _success(told.requests, told.failures),
                refused=told.refused,
                p50_ms=quantile(buckets, 0.5),
                p90_ms=quantile(buckets, 0.9),
                p99_ms=quantile(buckets, 0.99),
                bytes_per_second=max(told.octets - old.octets, 0) / seconds,
                mutual_tls=new.mutual_tls > 0 and not new.plain if new.mutual_tls or new.plain else None,
            )
        )
    return found


def _success(requests: float, failures: float) -> float:
    # None at all: the client's proxy has started again and has not counted yet, while the server's remembers.
    return 1 - failures / requests if requests else 1.0


def quantile(buckets: Mapping[float, float], ratio: float) -> float | None:
    """Return the value below which `ratio` of a cumulative histogram lies, as Prometheus estimates it."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = ratio * buckets[bounds[-1]]
    below, start = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            if bound == float("inf"):
                return start
            return start + (bound - start) * (rank - below) / (count - below)
        below, start = count, bound
    return start
