"""`lateen graph`: who calls whom, from what was really seen since the proxies started."""

from __future__ import annotations

import argparse
import sys

from lateen.cli.looking import Looker
from lateen.cli.output import print_data
from lateen.observe.graph import edge_data, to_dot, to_svg, to_text
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]

FORMS = {"text": to_text, "dot": to_dot, "svg": to_svg}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", nargs="?", default="", help="only edges from or to this one")
    parser.add_argument(
        "-o", "--output", choices=(*FORMS, "json"), default="text", help="how to draw (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    edges = [edge for edge in Looker(settings).look() if options.workload in ("", edge.source, edge.destination)]
    if options.output == "json":
        print_data(edge_data(edges), "json")
    else:
        sys.stdout.write(FORMS[options.output](edges))
    return 0
