"""The slices of one workload's own proxy, and the live outputs that feed them."""

from __future__ import annotations

from collections.abc import Callable

from lateen.pilot.serving.gate import Gate
from lateen.pilot.serving.held import Held, discovered
from lateen.pilot.serving.marks import Keeper, Ledger
from lateen.pilot.serving.render import Render
from lateen.pilot.serving.slices import NamedSlice, UnionSlice
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import CDS, ECDS, LDS

__all__ = ["WorkloadScope"]


class WorkloadScope:
    """The slices that only one workload's proxy has: what arrives at it."""

    judged = True

    def __init__(
        self,
        workload: str,
        render: Render,
        ledger: Ledger,
        gate: Gate,
        enter: Callable[[WorkloadScope, str, str, Resource], Resource | None],
    ) -> None:
        """`enter` says what is served at once under a name asked for first."""
        self.workload = workload
        self.name = f"workload {workload}"
        self.users = 0
        self.render = render
        self._gate = gate
        self.keeper = Keeper(ledger)
        self.clusters = UnionSlice(CDS, self.keeper)
        self.listeners = UnionSlice(LDS, self.keeper)
        self.extensions = NamedSlice(
            ECDS,
            lambda name: render.inbound_extensions.live((workload, name), None),
            lambda name: render.inbound_extensions.release((workload, name)),
            self.keeper,
            lambda name, wanted: enter(self, ECDS, name, wanted),
        )
        self._held = Held()
        self.clusters.set_part((0, ""), render.inbound_clusters.live(workload, ()))
        self.listeners.set_part((0, ""), render.inbound_listeners.live(workload, ()))

    def close(self) -> None:
        self.render.inbound_clusters.release(self.workload)
        self.render.inbound_listeners.release(self.workload)
        self.extensions.drain()
        self.keeper.close()
        self._gate.leave(self.name)

    def settle(self) -> None:
        """Hold what staged listeners ask for, so that it is judged and served with them."""
        for name, listener in list(self.listeners.staged()):
            self._held.hold(self.extensions, name, discovered(listener))

    def served(self) -> None:
        """Let go of what only the state before the last one needed."""
        self._held.let_go()

    def parts(self) -> tuple[UnionSlice | NamedSlice, ...]:
        return (self.clusters, self.listeners, self.extensions)
