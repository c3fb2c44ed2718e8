"""`lateen doctor`: what this machine can do, why, and what to install for the rest."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from lateen.cli.output import add_output_argument, print_data, styled

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print each check; exit code 1 when the mesh cannot run at all."""
    from lateen.net.doctor import best_mode, checks

    found = checks()
    mode = best_mode()
    if options.output != "table":
        print_data(
            {"mode": mode.mode, "reason": mode.reason, "checks": [dataclasses.asdict(check) for check in found]},
            options.output,
        )
    else:
        marks = {True: styled("ok", "32"), False: styled("no", "31"), None: styled("--", "33")}
        for check in found:
            sys.stdout.write(f"{marks[check.ok]}  {check.name}: {check.detail}\n")
            if check.remedy and check.ok is not True:
                sys.stdout.write(f"      {check.remedy}\n")
        sys.stdout.write(f"\nworkloads run in mode: {styled(mode.mode, '1')} ({mode.reason})\n")
    return 0
