"""What Mixer is asked by one proxy: the value between the model and `lateen.pilot.translate.mixer.called`.

Selection is done: the rules in here apply at the listener, and this part of them cannot be left to Envoy.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

__all__ = ["NO_CALLS", "MixerCalls"]


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
    attributes: frozenset[str] = frozenset()  # that checks and quotas read
    request_headers: tuple[str, ...] | None = ()  # that checks and quotas read, sorted; None: all
    report_request_headers: tuple[str, ...] = ()
    report_response_headers: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        return bool(self.closed or self.open or self.tcp_closed or self.tcp_open or self.reports or self.tcp_reports)


NO_CALLS = MixerCalls()
