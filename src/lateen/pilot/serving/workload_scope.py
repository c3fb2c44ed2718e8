"""The slices of one workload's own proxy, and the live outputs that feed them."""

from __future__ import annotations

from lateen.pilot.serving.gate import Gate
from lateen.pilot.serving.marks import Keeper, Ledger
from lateen.pilot.serving.render import Render
from lateen.pilot.serving.slices import NamedSlice, UnionSlice
from lateen.pilot.xds.type_urls import CDS, LDS

__all__ = ["WorkloadScope"]


class WorkloadScope:
    """The slices that only one workload's proxy has: what arrives at it."""

    judged = True

    def __init__(self, workload: str, render: Render, ledger: Ledger, gate: Gate) -> None:
        self.workload = workload
        self.name = f"workload {workload}"
        self.users = 0
        self.render = render
        self._gate = gate
        self.keeper = Keeper(ledger)
        self.clusters = UnionSlice(CDS, self.keeper)
        self.listeners = UnionSlice(LDS, self.keeper)
        self.clusters.set_part((0, ""), render.inbound_clusters.live(workload, ()))
        self.listeners.set_part((0, ""), render.inbound_listeners.live(workload, ()))

    def close(self) -> None:
        self.render.inbound_clusters.release(self.workload)
        self.render.inbound_listeners.release(self.workload)
        self.keeper.close()
        self._gate.leave(self.name)

    def settle(self) -> None:
        """Nothing follows from its parts."""

    def served(self) -> None:
        """Nothing is held for its parts."""

    def parts(self) -> tuple[UnionSlice | NamedSlice, ...]:
        return (self.clusters, self.listeners)
