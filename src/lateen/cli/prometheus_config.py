"""`lateen prometheus-config`: what a Prometheus is told, to scrape a mesh by `lateen up --metrics-listen`."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from lateen.cli.units import parse_duration_argument, parse_listen_argument

__all__ = ["add_arguments", "prometheus_config", "run"]

METRICS_PORT: Final = 15014  # where Istio's control plane has its metrics

_TEMPLATE: Final = """\
# A Prometheus that scrapes a Lateen mesh: lateen up --metrics-listen {address}
global:
  scrape_interval: {interval}
  scrape_timeout: {timeout}
scrape_configs:
  - job_name: lateen-control-plane
    static_configs:
      - targets: ['{address}']
        labels: {{instance: control-plane}}
  - job_name: lateen
    http_sd_configs:
      - url: http://{address}/sd
        refresh_interval: {interval}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        metavar="ADDRESS:PORT",
        type=parse_listen_argument,
        default=("127.0.0.1", METRICS_PORT),
        help=f"where 'lateen up --metrics-listen' listens (default: 127.0.0.1:{METRICS_PORT})",
    )
    parser.add_argument(
        "--every", type=parse_duration_argument, default="15s", help="between two scrapes (default: 15s)"
    )


def run(options: argparse.Namespace) -> int:
    ip, port = options.metrics
    sys.stdout.write(
        prometheus_config(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}", options.every.total_seconds())
    )
    return 0


def prometheus_config(address: str, seconds: float) -> str:
    """Return the whole file; a scrape may take as long as the pause between two, and no longer than 10 s."""
    return _TEMPLATE.format(address=address, interval=_duration(seconds), timeout=_duration(min(seconds, 10.0)))


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
