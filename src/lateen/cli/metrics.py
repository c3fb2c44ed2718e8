"""`lateen metrics [WORKLOAD]`: a workload's metrics, as Prometheus would scrape them, or the control plane's."""

from __future__ import annotations

import argparse
import sys

from lateen.cli.admin import ask
from lateen.settings import Settings
from lateen.wire.control import call_control
from lateen.wire.local import Query

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "workload",
        nargs="?",
        default="",
        help="as lateen status names it, for example reviews-v3; none: the control plane",
    )
    parser.add_argument("--istio", action="store_true", help="only Istio's standard metrics")


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    if not options.workload:
        sys.stdout.write(call_control(settings, "Metrics", Query()).text)
        return 0
    text = ask(settings, options.workload, "/stats/prometheus", sock="agent.sock").decode()
    if options.istio:
        lines = [line for line in text.splitlines(keepends=True) if "istio_" in line.split("{")[0]]
        text = "".join(lines)
    sys.stdout.write(text)
    return 0
