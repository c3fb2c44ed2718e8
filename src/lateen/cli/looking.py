"""Look at a mesh's edges: ask every workload of this machine for its metrics, all at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from lateen.cli.admin import ask, known_workloads
from lateen.errors import LateenError
from lateen.observe.edges import Edge, Pair, Totals, edges_between, parse_metrics, total
from lateen.settings import Settings

__all__ = ["Looker"]

AT_ONCE = 16


class Looker:
    """Remembers the last look, so that the next one tells what happened since."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._totals: Mapping[Pair, Totals] = {}
        self._looked = time.monotonic()

    def look(self) -> list[Edge]:
        """Return what happened on every edge since the last look, or since the proxies started at the first."""
        names = known_workloads(self._settings)
        with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
            texts = list(threads.map(self._metrics, names))
        now = total(sample for text in texts for sample in parse_metrics(text))
        moment = time.monotonic()
        edges = edges_between(self._totals, now, max(moment - self._looked, 0.001))
        self._totals, self._looked = now, moment
        return edges

    def _metrics(self, name: str) -> str:
        try:
            return ask(self._settings, name, "/stats/mesh", sock="agent.sock").decode()
        except LateenError:
            return ""  # it is just leaving, or starts: its numbers come with it
