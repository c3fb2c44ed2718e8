"""`lateen ca audit`: the trail of what was issued and refused; read from its files, so also without a control plane."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from lateen.citadel.audit import AuditEntry, audit_time, read_audit
from lateen.cli.output import print_data, print_table
from lateen.cli.units import parse_duration_argument
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]

LINES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--event", help="only these, as issued, refused, roots-changed")
    parser.add_argument("--identity", help="only those whose SPIFFE ID holds this text")
    parser.add_argument("--serial", help="only this serial number, hexadecimal")
    parser.add_argument("--since", metavar="DURATION", type=parse_duration_argument, help="only younger ones, as 1h")
    parser.add_argument(
        "-n", "--lines", type=int, default=LINES, help="the newest so many; 0 for all (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table", help="how to print (default: %(default)s)"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    entries = [entry for entry in read_audit(settings.state) if _is_wanted(entry, options)]
    if options.lines > 0:
        entries = entries[-options.lines :]
    if options.output != "table":
        print_data(entries, options.output)
    elif not entries:
        sys.stdout.write("nothing in the trail\n")
    else:
        print_table(
            ("time", "event", "identity", "source", "serial", "not after", "reason"),
            [
                (
                    e.time,
                    e.event,
                    _shown(e.identity),
                    e.source or "-",
                    e.serial[:16] or "-",
                    e.not_after or "-",
                    _shown(e.reason),
                )
                for e in entries
            ],
        )
    return 0


def _is_wanted(entry: AuditEntry, options: argparse.Namespace) -> bool:
    since = audit_time(datetime.now(UTC) - options.since) if options.since else ""
    return (
        (not options.event or entry.event == options.event)
        and (not options.identity or options.identity in entry.identity)
        and (not options.serial or entry.serial == options.serial.lower().lstrip("0"))
        and entry.time >= since
    )


def _shown(text: str) -> str:
    """Return what a stranger may have written without what a terminal would act on."""
    return "".join(char if char.isprintable() else "?" for char in text) or "-"
