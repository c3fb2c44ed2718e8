"""Whether a workload may get traffic, and what it still waits for. Pure.

Rules: Istio's readiness of a sidecar: configuration received, Envoy live, names known, not leaving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["READY_STATS", "ProxyState", "Readiness", "proxy_state"]

READY_STATS: Final = (
    "^(server.state|listener_manager.workers_started|cluster_manager.cds.update_success"
    "|listener_manager.lds.update_success)$"
)


@dataclass(frozen=True, slots=True)
class ProxyState:
    """What Envoy says of itself."""

    live: bool = False
    clusters: bool = False  # received, at least once
    listeners: bool = False

    @property
    def ready(self) -> bool:
        return self.live and self.clusters and self.listeners


def proxy_state(stats: Mapping[str, int]) -> ProxyState:
    """Return the state that `READY_STATS` tell. `server.state` 0 is LIVE (envoy.admin.v3.ServerInfo.State)."""
    live = stats.get("server.state") == 0 and stats.get("listener_manager.workers_started") == 1
    return ProxyState(
        live=live,
        clusters=stats.get("cluster_manager.cds.update_success", 0) > 0,
        listeners=stats.get("listener_manager.lds.update_success", 0) > 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """All that readiness depends on."""

    proxy: ProxyState = ProxyState()
    names: bool = False  # the name table is here, or none is wanted
    draining: bool = False
    listening: bool = True  # the application is on all of its ports
    ill: str = ""  # what a probe of the application complains of; "": it is well, or nobody asks

    @property
    def ready(self) -> bool:
        return self.proxy.ready and self.names and not self.draining

    @property
    def serves(self) -> bool:
        """Whether the workload may get traffic: its proxy is ready, and its application is."""
        return self.ready and self.listening and not self.ill

    def keeps_back(self) -> str:
        """Return in words why the workload gets no traffic; "" when it does."""
        if self.draining:
            return self.waits_for()
        application = "" if self.listening else "the application to listen"
        ill = self.ill if self.listening else ""  # that nobody listens says it all
        return ", ".join(text for text in (self.waits_for(), application, ill) if text)

    def waits_for(self) -> str:
        """Return in words what is missing; "" when nothing is."""
        if self.draining:
            return "draining"
        missing = [
            text
            for text, there in (
                ("clusters from the control plane", self.proxy.clusters),
                ("listeners from the control plane", self.proxy.listeners),
                ("envoy to be live", self.proxy.live),
                ("the name table", self.names),
            )
            if not there
        ]
        return ", ".join(missing)
