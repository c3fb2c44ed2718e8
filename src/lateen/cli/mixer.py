"""`lateen mixer adapters|explain|serve|test`: what rules have, where they run, for any Envoy, tried out."""

from __future__ import annotations

import argparse
from typing import Any

from lateen.cli import mixer_adapters, mixer_explain, mixer_serve, mixer_test

__all__ = ["add_arguments", "run"]

PARTS: dict[str, tuple[Any, str]] = {
    "adapters": (mixer_adapters, "what rules can decide and report with: in the box, and of one's own"),
    "explain": (mixer_explain, "where each part of a rule runs, in Envoy or in Mixer, and why"),
    "serve": (mixer_serve, "answer any Envoy by a folder of rules, without a control plane, until Ctrl-C"),
    "test": (
        mixer_test,
        "try rules on requests that a file describes; exit code 2 where it expects otherwise",
    ),
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
