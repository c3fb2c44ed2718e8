"""`lateen up DIR`: the control plane, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from lateen.cli.units import parse_duration_argument
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="DIR", help="folder of YAML to watch")
    parser.add_argument(
        "--secrets", metavar="DIR", help="folder of Secrets to watch, mode 0700 (default: secrets in the state folder)"
    )
    parser.add_argument("--trust-domain", default="cluster.local", help="of all identities (default: %(default)s)")
    parser.add_argument(
        "--cert-ttl",
        metavar="DURATION",
        type=parse_duration_argument,
        help="life of workload certificates, as 24h or 10s (default: 24h)",
    )
    parser.add_argument(
        "--network",
        choices=("auto", "capture", "explicit"),
        default="auto",
        help="capture needs namespaces; explicit uses loopback and an HTTP proxy (default: what the machine can do)",
    )
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON")


def run(options: argparse.Namespace) -> int:
    # Imported here: the control plane's imports take half a second, its --help should not.
    from lateen.pilot.serving.certificates import CertificateOptions
    from lateen.pilot.serving.control_plane import ControlPlaneOptions, run_control_plane

    settings = Settings.from_env(state=options.state)
    return asyncio.run(
        run_control_plane(
            settings,
            ControlPlaneOptions(
                config=Path(options.config),
                secrets=Path(options.secrets) if options.secrets else None,
                certificates=CertificateOptions(trust_domain=options.trust_domain, lifetime=options.cert_ttl),
                network=options.network,
                log_json=options.log_json,
            ),
        )
    )
