"""`lateen demo`: a whole mesh to look at, in one command."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from lateen.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="DIR", type=Path, help="folder of YAML; an empty one is filled with the shop"
    )
    parser.add_argument("--gateway-port", type=int, default=8080, metavar="PORT", help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=5.0, metavar="RPS", help="requests per second (%(default)s)")
    parser.add_argument(
        "--mode", choices=("auto", "capture", "explicit"), default="auto", help="(default: %(default)s)"
    )
    parser.add_argument("--plain", action="store_true", help="print tables one below the other")
    parser.add_argument(
        "--observe",
        action="store_true",
        help="with traces of every request and access logs, and with a Prometheus where one is on the PATH",
    )
    parser.add_argument("--cert-ttl", default="", metavar="DURATION", help="life of workload certificates")


def run(options: argparse.Namespace) -> int:
    from lateen.demo.mesh import DemoOptions, run_demo

    settings = Settings.from_env(state=options.state)
    return asyncio.run(
        run_demo(
            settings,
            DemoOptions(
                config=options.config.absolute() if options.config is not None else None,
                gateway_port=options.gateway_port,
                requests_per_second=options.rate,
                mode=options.mode,
                live=not options.plain,
                certificate_lifetime=options.cert_ttl,
                observe=options.observe,
            ),
        )
    )
