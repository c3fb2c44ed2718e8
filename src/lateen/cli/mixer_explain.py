"""`lateen mixer explain RULE`: where each part of a rule runs, in Envoy or in Mixer, and why.

Of the files that are named, or of those that the running control plane reads. RULE is `namespace/name`, or a name that
only one rule has.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from lateen.api.base import Object
from lateen.cli.mixer_test import read_rules
from lateen.cli.output import add_output_argument, print_data, print_table
from lateen.errors import BadInput
from lateen.settings import Settings
from lateen.wire.control import call_control
from lateen.wire.local import Query

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rule", metavar="RULE", help="NAMESPACE/NAME, or NAME")
    parser.add_argument(
        "-f",
        "--rules",
        metavar="PATH",
        type=Path,
        help="a file of rules, or a folder; unless given, what the running control plane reads",
    )
    parser.add_argument(
        "--root-namespace", default="istio-system", metavar="NAME", help="its rules are for every proxy"
    )
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    # Imported here: what reads expressions is large, --help should not wait for it.
    from lateen.pilot.model.mixer_explaining import explain

    folder = options.rules
    if folder is None:
        folder = Path(call_control(Settings.from_env(state=options.state), "Status", Query()).control_plane.config)
    rules = read_rules(folder)
    rule = _named(options.rule, rules)
    parts = explain(rule, rules, root_namespace=options.root_namespace)
    name = f"{rule.key.namespace}/{rule.key.name}"
    if options.output != "table":
        print_data({"rule": name, "file": str(rule.origin), "parts": [asdict(part) for part in parts]}, options.output)
        return 0
    sys.stdout.write(f"{name} ({rule.origin})\n")
    print_table(
        ("OF", "PART", "RUNS IN", "HOW", "WHY"),
        [(part.traffic, part.part, part.runs, part.how, part.why) for part in parts],
    )
    for traffic, condition in dict.fromkeys((part.traffic, part.condition) for part in parts if part.condition):
        sys.stdout.write(f"\ncondition in Envoy, of {traffic}:\n  {condition}\n")
    return 0


def _named(text: str, rules: list[Object]) -> Object:
    namespace, _, name = text.rpartition("/")
    found = [rule for rule in rules if rule.key.name == name and namespace in ("", rule.key.namespace)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(sorted(f"{rule.key.namespace}/{rule.key.name}" for rule in found or rules))
    raise BadInput(f"{text}: {'several rules are called so' if found else 'there is no such rule'}; there are {there}")
