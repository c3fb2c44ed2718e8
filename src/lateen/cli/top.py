"""`lateen top`: every edge of the mesh, live: how much, how well, how fast, how safe."""

from __future__ import annotations

import argparse
import sys
import time

from lateen.cli.looking import Looker
from lateen.cli.output import print_data
from lateen.cli.units import parse_duration_argument
from lateen.observe.edges import Edge
from lateen.observe.graph import edge_data
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]

SORTS = ("name", "rate", "success", "p99")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", nargs="?", default="", help="only edges from or to this one")
    parser.add_argument("--every", type=parse_duration_argument, default="2s", help="between two looks (default: 2s)")
    parser.add_argument("--once", action="store_true", help="one look over --every, then end")
    parser.add_argument("--sort", choices=SORTS, default="name", help="what comes first (default: %(default)s)")
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="json: one line for each look"
    )


def run(options: argparse.Namespace) -> int:
    """Draw until interrupted, or once; on a terminal in place, elsewhere one table after the other."""
    settings = Settings.from_env(state=options.state)
    looker = Looker(settings)
    looker.look()
    gap = options.every.total_seconds()
    if options.output == "json":
        import msgspec

        while True:
            time.sleep(gap)
            data = edge_data(_chosen(looker.look(), options))
            if options.once:
                print_data(data, "json")
                return 0
            sys.stdout.write(msgspec.json.encode(data).decode() + "\n")
            sys.stdout.flush()
    from lateen.observe.table import Screen

    with Screen(live=sys.stdout.isatty() and not options.once) as screen:
        while True:
            time.sleep(gap)
            screen.draw_edges(_chosen(looker.look(), options))
            if options.once:
                return 0


def _chosen(edges: list[Edge], options: argparse.Namespace) -> list[Edge]:
    found = [edge for edge in edges if options.workload in ("", edge.source, edge.destination)]
    match options.sort:
        case "rate":
            found.sort(key=lambda edge: -edge.requests_per_second)
        case "success":
            found.sort(key=lambda edge: edge.success_ratio)
        case "p99":
            found.sort(key=lambda edge: -(edge.p99_ms or 0))
    return found
