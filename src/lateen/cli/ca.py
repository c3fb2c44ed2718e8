"""`lateen ca status|root|rotate|issue|audit`: the authority, for its operator."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime

from lateen.cli import ca_audit, ca_issue
from lateen.cli.output import add_output_argument, print_data, print_table, styled
from lateen.cli.units import parse_duration_argument
from lateen.errors import Unavailable
from lateen.settings import Settings
from lateen.wire.authority import (
    AUTHORITY_METHODS,
    AUTHORITY_SERVICE,
    AuthorityReport,
    LinkInfo,
    ReportQuery,
    RotateOrder,
)
from lateen.wire.control import call_service

__all__ = ["add_arguments", "run"]

LOOK_SECONDS = 0.5
SHOWN = 20  # workloads of a table of those that are waited for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="ca_command", metavar="COMMAND", required=True)
    status = commands.add_parser("status", help="what signs, until when, who trusts it, where a rotation stands")
    add_output_argument(status)
    root = commands.add_parser("root", help="the roots that are believed, as PEM")
    root.add_argument(
        "-o", "--output", choices=("pem", "table", "json", "yaml"), default="pem", help="how to print (default: pem)"
    )
    rotate = commands.add_parser(
        "rotate", help="replace the root without a failed request; without ACTION: how far that is, and who is missing"
    )
    rotate.add_argument(
        "action",
        nargs="?",
        choices=("root", "intermediate", "abort", "finish"),
        help="root: begin; abort: go back to what signed before; finish: do not wait for the expiry of certificates "
        "that no workload uses any more; intermediate: how that is done",
    )
    rotate.add_argument(
        "--without",
        metavar="WORKLOAD",
        action="append",
        default=[],
        help="do not wait for this workload, which loses its place in the mesh if it still runs",
    )
    rotate.add_argument("--wait", action="store_true", help="return when the rotation is done")
    rotate.add_argument(
        "--timeout", metavar="DURATION", type=parse_duration_argument, help="of --wait (default: without end)"
    )
    add_output_argument(rotate)
    ca_issue.add_arguments(commands.add_parser("issue", help="a certificate for an identity, its key made here"))
    ca_audit.add_arguments(commands.add_parser("audit", help="what was issued and refused, and to whom"))


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    match options.ca_command:
        case "issue":
            return ca_issue.run(options, settings)
        case "audit":
            return ca_audit.run(options, settings)
        case "rotate":
            return _rotate(options, settings)
    report = _report(settings)
    if options.output == "pem":
        sys.stdout.write("".join(root.pem for root in report.roots))
    elif options.output != "table":
        print_data(report if options.ca_command == "status" else report.roots, options.output)
    elif options.ca_command == "status":
        _print_status(report)
    else:
        _print_links(report.roots)
    return 0


def _report(settings: Settings) -> AuthorityReport:
    report: AuthorityReport = call_service(settings, AUTHORITY_SERVICE, AUTHORITY_METHODS, "Report", ReportQuery())
    return report


def _order(settings: Settings, order: RotateOrder) -> AuthorityReport:
    report: AuthorityReport = call_service(settings, AUTHORITY_SERVICE, AUTHORITY_METHODS, "Rotate", order)
    return report


def _rotate(options: argparse.Namespace, settings: Settings) -> int:
    if options.without:
        report = _order(settings, RotateOrder(action="without", without=tuple(options.without)))
    if options.action:
        report = _order(settings, RotateOrder(action=options.action))
    elif not options.without:
        report = _report(settings)
    if options.wait:
        report = _wait(options, settings, report)
    if options.output == "table":
        _print_rotation(report)
    else:
        print_data(report.rotation, options.output)
    return 0


def _wait(options: argparse.Namespace, settings: Settings, report: AuthorityReport) -> AuthorityReport:
    deadline = None if options.timeout is None else time.monotonic() + options.timeout.total_seconds()
    while report.rotation.phase != "steady":
        if deadline is not None and time.monotonic() > deadline:
            names = ", ".join(each.workload for each in report.rotation.waits_for[:SHOWN])
            raise Unavailable(f"the rotation is {report.rotation.phase} and goes on; it waits for {names or 'expiry'}")
        time.sleep(LOOK_SECONDS)
        try:
            report = _report(settings)
        except Unavailable:
            if deadline is None:
                raise
    return report


def _print_status(report: AuthorityReport) -> None:
    sys.stdout.write(f"trust domain {report.trust_domain}, {report.source}\n")
    for name, value in report.elsewhere.items():
        sys.stdout.write(f"  {name}: {value}\n")
    if report.problem:
        sys.stdout.write(styled(f"not in force: {report.problem}\n", "31"))
    sys.stdout.write("\nSIGNS\n")
    _print_links(report.chain)
    sys.stdout.write("\nBELIEVED\n")
    _print_links(report.roots)
    sys.stdout.write(
        f"\n{report.trusting} of {report.workloads} workloads have proven to believe these roots"
        f" (bundle {report.bundle_version or '-'}); {report.issued} certificates issued since the start\n"
    )
    if report.unproven:
        names = ", ".join(report.unproven[:SHOWN])
        sys.stdout.write(f"connected without a registration: {names}\n")
    _print_rotation(report)


def _print_rotation(report: AuthorityReport) -> None:
    rotation = report.rotation
    if rotation.phase == "steady":
        sys.stdout.write("no rotation is on\n")
        return
    because = f" ({rotation.reason})" if rotation.reason else ""
    sys.stdout.write(f"rotation: {styled(rotation.phase, '33')} since {rotation.since}{because}\n")
    if rotation.without:
        sys.stdout.write(f"not waited for: {', '.join(rotation.without)}\n")
    if rotation.waits_for:
        print_table(("waits for", "because"), [(each.workload, each.reason) for each in rotation.waits_for[:SHOWN]])
        more = len(rotation.waits_for) - SHOWN
        if more > 0:
            sys.stdout.write(f"and {more} more\n")
    elif rotation.settles_until:
        sys.stdout.write(f"the new root signs from {rotation.settles_until} on\n")
    elif rotation.leaves_until:
        sys.stdout.write(f"certificates of the old root expire until {rotation.leaves_until}\n")


def _print_links(links: tuple[LinkInfo, ...]) -> None:
    print_table(
        ("role", "key", "expires", "in days", "serial", "subject"),
        [
            (link.role, link.key, link.not_after, _days(link.not_after), link.serial[:16], link.subject)
            for link in links
        ],
    )


def _days(moment: str) -> str:
    left = datetime.fromisoformat(moment) - datetime.now(UTC)
    return f"{left.total_seconds() / 86400:.1f}"
