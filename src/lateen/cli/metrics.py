"""`lateen metrics WORKLOAD`: what Prometheus would scrape from `:15020/stats/prometheus`."""

from __future__ import annotations

import argparse
import sys

from lateen.cli.admin import ask
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", help="as lateen status names it, for example reviews-v3")
    parser.add_argument("--istio", action="store_true", help="only Istio's standard metrics")


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    text = ask(settings, options.workload, "/stats/prometheus", sock="agent.sock").decode()
    if options.istio:
        lines = [line for line in text.splitlines(keepends=True) if "istio_" in line.split("{")[0]]
        text = "".join(lines)
    sys.stdout.write(text)
    return 0
