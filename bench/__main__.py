"""`python -m bench`: measure, print a table, write bench/results/*.json."""

from __future__ import annotations

import argparse
import asyncio
import gc
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from bench.control import Size, measure
from bench.issuance import issuance_rows
from bench.micro import micro_rows
from bench.mixer import mixer_rows
from bench.routing import routing_rows
from bench.rows import show, write

WIDTH = 150  # characters, where nobody is there to tell
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, no mutual TLS, no bare gRPC")
    parser.add_argument("--services", type=int, default=200, help="default: %(default)s, two workloads each")
    parser.add_argument("--clients", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--only", choices=("control", "issuance", "micro", "mixer", "routing"), help="one part of it")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    if not 1 <= options.clients <= options.services * 2:
        parser.error(f"--clients must be between 1 and twice the services, got {options.clients}")
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    progress = Console(stderr=True)
    began = time.monotonic()
    rows = []
    if options.only in (None, "routing"):
        progress.print("[dim]routing[/]")
        rows += routing_rows(quick=options.quick)
        gc.collect()
    if options.only in (None, "micro"):
        progress.print("[dim]micro[/]")
        rows += micro_rows(quick=options.quick)
        gc.collect()
    if options.only in (None, "issuance"):
        progress.print("[dim]issuance[/]")
        folder = Path(tempfile.mkdtemp(prefix="lateen-bench-"))
        rows += asyncio.run(issuance_rows(folder, quick=options.quick))
        shutil.rmtree(folder)
        gc.collect()
    if options.only in (None, "mixer"):
        progress.print("[dim]mixer and telemetry[/]")
        rows += mixer_rows(quick=options.quick)
        gc.collect()
    if options.only in (None, "control"):
        size = Size(
            services=options.services,
            clients=options.clients,
            repetitions=2 if options.quick else 7,
            quick=options.quick,
        )
        folder = Path(tempfile.mkdtemp(prefix="lateen-bench-"))
        rows = [*asyncio.run(measure(size, folder, lambda text: progress.print(f"[dim]{text}[/]"))), *rows]
        shutil.rmtree(folder)  # kept when something failed: it holds the logs
    seconds = time.monotonic() - began
    show(rows, console)
    path = write(rows, RESULTS, seconds=seconds, arguments=sys.argv[1:])
    console.print(f"\n[dim]{seconds:.0f} s; written to {path}[/]")
    return 1 if options.check and any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
