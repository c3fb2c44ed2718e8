"""`lateen status`: is everything as it should be? Exit code 1 when a configuration error stands."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from lateen.cli.output import add_output_argument, print_data, print_table, styled
from lateen.errors import BadInput
from lateen.settings import Settings
from lateen.wire.control import call_control
from lateen.wire.local import ProblemInfo, Query, StatusReport, WorkloadInfo

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", nargs="?", default="", help="only this one")
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    report: StatusReport = call_control(settings, "Status", Query(workload=options.workload))
    if options.workload and not report.workloads:
        raise BadInput(f"no workload {options.workload!r} runs; lateen status names those that do")
    if options.output == "table":
        _print(report, datetime.now(UTC))
    else:
        print_data(report, options.output)
    return 1 if report.errors else 0


def _print(report: StatusReport, now: datetime) -> None:
    plane = report.control_plane
    print_table(
        ("control plane", "version", "pid", "network", "trust domain", "root expires in", "config"),
        [
            (
                styled("running", "32"),
                plane.version,
                plane.pid,
                plane.network,
                plane.trust_domain,
                _until(plane.root_expires, now),
                plane.config,
            )
        ],
    )
    counts = f"{plane.resources} resources, {plane.services} services, {plane.proxies} proxies connected"
    sys.stdout.write(f"{counts}\n\n")
    if report.mixer is not None:
        mixer = report.mixer
        print_table(
            ("mixer", "pid", "starts", "rules", "decisions", "denied", "log entries", "dropped"),
            [
                (
                    styled(mixer.state, "32" if mixer.state == "serving" else "33"),
                    mixer.pid or "-",
                    mixer.starts,
                    mixer.rules,
                    mixer.decisions,
                    mixer.denied,
                    mixer.entries,
                    mixer.dropped,
                )
            ],
        )
        sys.stdout.write("\n")
    if report.workloads:
        print_table(
            ("workload", "pid", "address", "state", "identity", "certificate expires in"),
            [_row(workload, now) for workload in report.workloads],
        )
    else:
        sys.stdout.write("no workloads; start one with: lateen run --service NAME --port http:8080 -- COMMAND\n")
    for title, problems, colour in (("errors", report.errors, "31"), ("warnings", report.warnings, "33")):
        if problems:
            sys.stdout.write(f"\n{styled(title.upper(), colour)}\n")
            for problem in problems:
                sys.stdout.write(f"  {_problem(problem)}\n")
    if not report.errors:
        sys.stdout.write(f"\n{styled('no configuration errors', '32')}\n")


def _row(workload: WorkloadInfo, now: datetime) -> tuple[object, ...]:
    state = "ready" if workload.ready else "not ready"
    if workload.waits_for and not workload.ready:
        state += f": {workload.waits_for}"
    if not workload.connected:
        state += ", proxy not connected"
    expires = _until(workload.certificate.not_after, now) if workload.certificate is not None else "-"
    pid = "elsewhere" if workload.remote else workload.pid  # its processes are another machine's
    return (workload.name, pid, workload.ip, state, workload.identity, expires)


def _problem(problem: ProblemInfo) -> str:
    where = f"{problem.file}:{problem.line}: " if problem.file else ""
    field = f"{problem.field}: " if problem.field else ""
    return f"{where}{field}{problem.message}"


def _until(moment: str, now: datetime) -> str:
    """Return the time left until an RFC 3339 moment in its two largest units."""
    seconds = int((datetime.fromisoformat(moment) - now).total_seconds())
    if seconds <= 0:
        return styled("EXPIRED", "31")
    units = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
    parts: list[str] = []
    for size, unit in units:
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])
