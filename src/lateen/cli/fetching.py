"""Arguments of commands that fetch from URLs in configuration: where that may lead, and how long keys last."""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lateen.cli.units import parse_duration_argument

if TYPE_CHECKING:
    from lateen.fetch import Guard
    from lateen.pilot.serving.keys import FetchOptions

__all__ = ["add_fetch_arguments", "add_reach_arguments", "fetch_options", "reach_of"]


def add_fetch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all of them: for who fetches keys, too."""
    fetching = add_reach_arguments(parser)
    fetching.add_argument(
        "--jwks-refresh",
        metavar="DURATION",
        type=parse_duration_argument,
        default=timedelta(minutes=20),
        help="how often keys of issuers are fetched (default: 20m)",
    )
    fetching.add_argument(
        "--jwks-keep",
        metavar="DURATION",
        type=parse_duration_argument,
        default=timedelta(hours=6),
        help="how long keys are kept that cannot be fetched again; then tokens are refused (default: 6h)",
    )


def add_reach_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add those of where URLs may lead."""
    fetching = parser.add_argument_group("fetching", "what is fetched from URLs in configuration")
    fetching.add_argument(
        "--allow-fetch",
        metavar="CIDR",
        action="append",
        default=[],
        help="addresses that may be fetched from though they are loopback, private or the like; may be repeated",
    )
    fetching.add_argument(
        "--refuse-fetch",
        metavar="CIDR",
        action="append",
        default=[],
        help="addresses that are never fetched from; may be repeated",
    )
    fetching.add_argument("--fetch-ca", metavar="FILE", help="roots in PEM that are trusted beside the system's")
    return fetching


def fetch_options(options: argparse.Namespace) -> FetchOptions:
    """Return what the arguments say. Raises `BadInput`."""
    from lateen.pilot.serving.keys import FetchOptions

    guard, ca_file = reach_of(options)
    return FetchOptions(
        guard=guard,
        ca_file=ca_file,
        key_refresh=options.jwks_refresh,
        key_keep=options.jwks_keep,
    )


def reach_of(options: argparse.Namespace) -> tuple[Guard, Path | None]:
    """Return where URLs may lead, and further roots. Raises `BadInput`."""
    from lateen.fetch.guard import Guard, parse_networks

    guard = Guard(
        allowed=parse_networks(options.allow_fetch, "--allow-fetch"),
        refused=parse_networks(options.refuse_fetch, "--refuse-fetch"),
    )
    return guard, Path(options.fetch_ca) if options.fetch_ca else None
