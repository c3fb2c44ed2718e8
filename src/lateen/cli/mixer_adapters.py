"""`lateen mixer adapters`: what rules can decide and report with: in the box, and of one's own."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from lateen.cli.output import add_output_argument, print_data, print_table
from lateen.logs import silent_logs

if TYPE_CHECKING:
    from lateen.mixer.own.adapters import OwnAdapters
    from lateen.mixer.own.frames import Description

__all__ = ["add_adapters_argument", "add_arguments", "run"]

IN_THE_BOX: Final = (
    ("check", "allow", "once a rule allows, what none of those matches is refused"),
    ("check", "deny", "refuse, with a status, a body and headers"),
    ("check", "headers", "change headers of what passes"),
    ("check", "list", "look a value up: in the rule, in a file, at a URL; texts, patterns, networks"),
    ("check", "opa", "a server decides, as OPA answers"),
    ("check", "webhook", "a server decides, by its status"),
    ("quota", "quota", "limits over keys and windows, in memory or in Redis"),
    ("report", "event", "a JSON list by POST"),
    ("report", "log", "lines of JSON"),
    ("report", "metric", "counters, gauges and histograms for Prometheus"),
    ("report", "otelLog", "logs of OpenTelemetry, over OTLP/HTTP"),
    ("report", "otelSpan", "spans of OpenTelemetry, over OTLP/HTTP"),
    ("report", "zipkin", "spans of Zipkin's, version 2"),
)


def add_adapters_argument(parser: argparse.ArgumentParser, name: str = "--adapters") -> None:
    parser.add_argument(
        name,
        metavar="DIR",
        type=Path,
        dest="adapters",
        help="folder of adapters of one's own, *.py, followed while running; beside them those of installed packages",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_adapters_argument(parser)
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    # Imported here: --help should not wait for it.
    from lateen.mixer.own.adapters import OwnAdapters

    own = OwnAdapters(options.adapters, workers=1)
    with silent_logs():  # what they would say is in the list
        asyncio.run(_load(own))
    problems = [str(problem) for problem in own.problems()]
    if options.output != "table":
        boxed = [{"kind": kind, "name": name, "does": does} for kind, name, does in IN_THE_BOX]
        print_data({"inTheBox": boxed, "own": msgspec.to_builtins(own.adapters), "problems": problems}, options.output)
    else:
        print_table(("KIND", "NAME", "DOES"), IN_THE_BOX)
        if own.adapters:
            sys.stdout.write("\n")
            print_table(("KIND", "OF ONE'S OWN", "PARAMETERS", "WHERE", "DOES"), [_row(one) for one in own.adapters])
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


async def _load(own: OwnAdapters) -> None:
    try:
        await own.load()
    finally:
        await own.close()


def _row(one: Description) -> tuple[Any, ...]:
    parameters = ", ".join(
        f"{each.name}: {each.type}" + ("" if each.default is None else f" = {each.default}") for each in one.parameters
    )
    return one.kind, one.name, parameters or "-", f"{one.file}:{one.line}", one.doc or "-"
