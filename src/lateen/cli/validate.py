"""`lateen validate -f PATH`: what the control plane would say of configuration, without a mesh.

Exit code 1 when something would be refused; warnings alone are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lateen.cli.output import add_output_argument, counted, print_data, styled
from lateen.logs import silent_logs
from lateen.wire.local import ProblemInfo

if TYPE_CHECKING:
    from lateen.pilot.serving.offline import Offline

__all__ = ["add_arguments", "run"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `-o json` and `-o yaml` print."""

    valid: bool
    files: int
    resources: int
    errors: tuple[ProblemInfo, ...]
    warnings: tuple[ProblemInfo, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--file",
        dest="files",
        metavar="PATH",
        action="append",
        required=True,
        help="a file, a folder, or - for standard input; may be given several times",
    )
    parser.add_argument(
        "--taste", action="store_true", help="also have a real Envoy judge what follows for representative proxies"
    )
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    # Imported here: translation takes half a second to import, --help should not.
    from lateen.pilot.serving.offline import Offline, read_files

    with silent_logs():  # what they would say is in the report
        offline = Offline(read_files(options.files))
        if options.taste:
            asyncio.run(_taste(offline))
    problems = [
        ProblemInfo(
            file=problem.file,
            line=problem.line,
            field=problem.field,
            message=problem.message,
            level=problem.level,
            resource=str(problem.resource) if problem.resource is not None else "",
        )
        for problem in offline.problems()
    ]
    errors = tuple(problem for problem in problems if problem.level == "error")
    report = Report(
        valid=not errors,
        files=offline.files,
        resources=len(offline.objects),
        errors=errors,
        warnings=tuple(problem for problem in problems if problem.level != "error"),
    )
    if options.output == "table":
        _print(report)
    else:
        print_data(report, options.output)
    return 0 if report.valid else 1


async def _taste(offline: Offline) -> None:
    from lateen.pilot.taste.taster import Taster

    with tempfile.TemporaryDirectory(prefix="lateen-") as folder:
        async with Taster(Path(folder)) as taster:
            await offline.taste(taster)


def _print(report: Report) -> None:
    for word, colour, problems in (("error", "31", report.errors), ("warning", "33", report.warnings)):
        for problem in problems:
            where = f"{problem.file}:{problem.line}: " if problem.file else ""
            field = f"{problem.field}: " if problem.field else ""
            sys.stdout.write(f"{where}{styled(word, colour)}: {field}{problem.message}\n")
    counts = f"{counted(report.resources, 'resource')} in {counted(report.files, 'file')}"
    warnings = counted(len(report.warnings), "warning")
    if report.valid:
        sys.stdout.write(f"{styled('valid', '32')}: {counts}, {warnings}\n")
    else:
        errors = counted(len(report.errors), "error")
        sys.stdout.write(f"{styled('not valid', '31')}: {errors}, {warnings}; {counts} would be in force\n")
