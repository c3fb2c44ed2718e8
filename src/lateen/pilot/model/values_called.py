"""Rules of Mixer at one proxy: the value between the model and `lateen.pilot.translate.mixer`.

Selection is done: the rules in here apply at the listener. What Envoy can decide is in `Inside`, the rest is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from lateen.expr.envoy_needs import Need

__all__ = ["NO_CALLS", "Condition", "Count", "Inside", "Limit", "MixerCalls", "Refusal", "Written"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition, or a value, that Envoy evaluates: bytes of a `google.api.expr.v1alpha1.Expr`."""

    when: bytes
    stranger: bytes  # the same where the mesh's roots do not vouch for clients
    needs: tuple[Need, ...] = ()  # without one of these it cannot hold, and need not be evaluated

    def tree(self, *, vouched: bool) -> bytes:
        return self.when if vouched else self.stranger


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A rule that refuses by itself, or that allows, with what is said to whom it refuses."""

    rule: str  # "<namespace>/<name>"
    condition: Condition
    status: int = 403
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A quota that each proxy keeps for itself: a bucket that fills evenly."""

    rule: str
    limit: int
    per: timedelta
    condition: Condition | None  # None: every request
    by: tuple[Condition, ...]  # texts: each combination of them has a bucket
    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Written:
    """An expression as Envoy's formats and filters of access logs take it."""

    text: str
    stranger: str  # the same where the mesh's roots do not vouch for clients

    def of(self, *, vouched: bool) -> str:
        return self.text if vouched else self.stranger


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A counter of what is over, by one."""

    rule: str
    metric: str
    when: Written | None  # None: always
    labels: tuple[tuple[str, Written], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What Envoy decides without asking. Of denials the first one that matches is told."""

    denies: tuple[Refusal, ...] = ()
    allows: tuple[Refusal, ...] = ()  # with any, what none of them matches is refused
    limits: tuple[Limit, ...] = ()  # of what passes all else
    counts: tuple[Count, ...] = ()
    tcp_counts: tuple[Count, ...] = ()
    tcp_denies: tuple[Refusal, ...] = ()
    tcp_allows: tuple[Refusal, ...] = ()


_NOTHING = Inside()


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerCalls:
    """Rules by name, "<namespace>/<name>", in the order in which they are applied. Equal proxies share equal values."""

    namespace: str = ""  # of the proxies: Mixer holds their certificates to it
    kind: str = "inbound"  # "inbound" | "outbound": at gateways
    vouched: bool = True  # whether the mesh's roots vouch for clients' certificates
    socket: str = ""  # where Mixer listens, as the proxies see it
    identity: str = ""  # Mixer's SPIFFE ID
    closed: tuple[str, ...] = ()  # checks and quotas of requests that are refused when Mixer does not answer
    open: tuple[str, ...] = ()  # those that pass then
    tcp_closed: tuple[str, ...] = ()  # of these the ones that connections are decided by
    tcp_open: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    tcp_reports: tuple[str, ...] = ()
    timeout: timedelta = timedelta(milliseconds=100)  # of the slowest rule
    inside: Inside = _NOTHING  # rules that are in none of the above
    closed_when: Condition | None = None  # when one of `closed` may have anything to say; None: always
    open_when: Condition | None = None
    attributes: frozenset[str] = frozenset()  # that checks and quotas read
    request_headers: tuple[str, ...] | None = ()  # that checks and quotas read, sorted; None: all
    report_request_headers: tuple[str, ...] = ()
    report_response_headers: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        return bool(self.closed or self.open or self.tcp_closed or self.tcp_open or self.reports or self.tcp_reports)


NO_CALLS = MixerCalls()
