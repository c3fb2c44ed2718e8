"""`lateen authz check|test`: who may reach a workload, as its proxy holds it, and what becomes of one request."""

from __future__ import annotations

import argparse
from typing import Any

from lateen.cli import authz_check, authz_test

__all__ = ["add_arguments", "run"]

PARTS: dict[str, tuple[Any, str]] = {
    "check": (authz_check, "the policies in force on a workload, as its proxy holds them"),
    "test": (authz_test, "whether a request would be allowed, and by which rule; exit code 2 when it is denied"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, (module, text) in PARTS.items():
        part = parts.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        module.add_arguments(part)


def run(options: argparse.Namespace) -> int:
    module, _ = PARTS[options.part]
    code: int = module.run(options)
    return code
