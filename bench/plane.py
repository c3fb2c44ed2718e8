"""The control plane under measurement: the real one, in a process of its own, that also answers for its counters.

`python -m bench.plane STATE CONFIG`. Prints one JSON line when it serves; then answers each line on standard input with
one: "stats" (counters; monotonic time of the last request taken, that is of the last ACK), "quit".
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.processes import rss_bytes
from lateen.logs import configure_logging
from lateen.pilot.serving.control_plane import ControlPlane, ControlPlaneOptions
from lateen.settings import Settings


class Counters:
    """Sums since the start. Requests are noted as the hub has dealt with them."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.last_request = 0.0
        receive = plane.ads.hub.receive

        def noted(stream: Any, request: Any) -> None:
            receive(stream, request)
            self.last_request = time.monotonic()

        plane.ads.hub.receive = noted  # type: ignore[method-assign]  # to see when the last ACK was dealt with

    def read(self) -> dict[str, Any]:
        stats = self.plane.ads.stats
        return {
            "last_request": self.last_request,
            "cpu_seconds": time.process_time(),
            "rss_bytes": rss_bytes(),
            "types": {name: vars_of(stats, name) for name in ("CDS", "EDS", "LDS", "RDS", "NDS")},
            "recomputed": dict(self.plane.pilot.graph.stats.recomputed),
            "held": sum(self.plane.pilot.graph.stats.held.values()),
            "tasting_pid": self.plane.taster.pid if self.plane.taster is not None else 0,
            "streams": len(list(self.plane.ads.hub.streams)),
        }


def vars_of(stats: Any, name: str) -> dict[str, int]:
    from lateen.pilot.xds import type_urls

    one = stats.of(getattr(type_urls, name))
    return {key: getattr(one, key) for key in ("responses", "resources", "removed", "sent_bytes", "acks", "nacks")}


async def main(state: str, config: str) -> None:
    configure_logging()
    began = time.process_time()
    plane = ControlPlane(Settings(state=Path(state)), ControlPlaneOptions(config=Path(config), network="explicit"))
    async with plane:
        counters = Counters(plane)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print(json.dumps({"start_cpu_seconds": time.process_time() - began, **counters.read()}), flush=True)
        stop = asyncio.Event()
        serving = asyncio.create_task(plane.serve(stop), name="serve")
        while (await reader.readline()).strip() == b"stats":
            print(json.dumps(counters.read()), flush=True)
        stop.set()
        await serving


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
