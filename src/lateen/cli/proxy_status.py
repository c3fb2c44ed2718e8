"""`lateen proxy-status`: what each proxy was sent, has taken, or has refused, and in whose words."""

from __future__ import annotations

import argparse
import sys

from msgspec.structs import replace

from lateen.cli.output import add_output_argument, print_data, print_table, styled
from lateen.errors import BadInput
from lateen.settings import Settings
from lateen.wire.control import call_control
from lateen.wire.local import PatchInfo, ProxyInfo, ProxyReport, QuarantineInfo, Query

__all__ = ["add_arguments", "run"]

TYPES = ("CDS", "LDS", "EDS", "RDS", "NDS")
APPLIED = "applied"  # what a patch of the bootstrap says that the proxy has started with
COLOURS = {"SYNCED": "32", "STALE": "33", "ERROR": "31"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", nargs="?", default="", help="only this one")
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print the report; exit code 1 when a proxy refuses something, or would. An unknown proxy is `BadInput`."""
    settings = Settings.from_env(state=options.state)
    report: ProxyReport = call_control(settings, "ProxyStatus", Query(workload=options.workload))
    if options.workload and not report.proxies and not report.quarantined:
        raise BadInput(f"no proxy {options.workload!r} is connected; lateen proxy-status names those that are")
    if options.output == "table":
        _print(report)
    else:
        print_data(report, options.output)
    refused = any(info.error for proxy in report.proxies for info in proxy.types.values())
    return 1 if refused or report.quarantined else 0


def _print(report: ProxyReport) -> None:
    if not report.proxies:
        sys.stdout.write("no proxy is connected\n")
        _print_quarantined(report)
        return
    rows = []
    for proxy in report.proxies:
        states = (proxy.types[name].state if name in proxy.types else "-" for name in TYPES)
        rows.append((proxy.name, proxy.namespace, *states, proxy.version, proxy.connected))
    print_table(("name", "namespace", *TYPES, "envoy", "connected since"), rows)
    for proxy in report.proxies:
        _print_errors(proxy)
    for proxy in report.proxies:
        _print_patches(proxy, whole=len(report.proxies) == 1)
    _print_quarantined(report)


def _print_patches(proxy: ProxyInfo, *, whole: bool) -> None:
    """Print what EnvoyFilters do to a proxy: of many proxies only the patches that do nothing."""
    shown = [patch for patch in proxy.patches if whole or not (patch.resources or patch.note == APPLIED)]
    if not shown:
        return
    sys.stdout.write(f"\n{styled(proxy.name, '1')}: patches of EnvoyFilters{'' if whole else ' that do not act'}\n")
    print_table(
        ("patch", "applies to", "acts on", "written at"),
        [(f"{patch.filter}[{patch.index}]", patch.apply_to, _acts_on(patch), patch.place) for patch in shown],
    )


def _acts_on(patch: PatchInfo) -> str:
    if patch.note:
        return patch.note if patch.note == APPLIED else styled(patch.note, "33")
    if not patch.resources:
        return styled("matches nothing", "33")
    return ", ".join(f"{count} {word}" for word, count in sorted(patch.resources.items()))


def _print_errors(proxy: ProxyInfo) -> None:
    for name, info in sorted(proxy.types.items()):
        if info.error:
            resources = ", ".join(info.rejected) or "?"
            sys.stdout.write(f"\n{styled(proxy.name, '31')} refuses {name} {resources}\n    {info.error}\n")


def _print_quarantined(report: ProxyReport) -> None:
    # One fault of a rule for all is held back for each proxy by itself, and is told once.
    proxies: dict[QuarantineInfo, list[str]] = {}
    for held in report.quarantined:
        proxies.setdefault(replace(held, proxies=()), []).extend(held.proxies)
    for held, names in proxies.items():
        concerned = ", ".join(dict.fromkeys(names)) or "none connected"
        sys.stdout.write(
            f"\n{styled('held back', '31')} {held.type} {held.resource} (for {concerned}): {held.instead}\n"
        )
        sys.stdout.write(f"    {held.error}\n")
        for origin in held.shaped_by:
            sys.stdout.write(f"    shaped by {origin}\n")
