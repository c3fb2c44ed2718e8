"""`lateen authz check WORKLOAD`: ports, policies and tokens as the workload's Envoy really holds them.

The proxy is asked first; the control plane only says where the policies were written, and which ones the proxy should
hold and does not. Without a control plane the rest is told all the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from lateen.cli.admin import ask_json
from lateen.cli.held_policies import Guarded, HeldIssuer, HeldPolicy, held_guards
from lateen.cli.output import add_output_argument, print_data, print_table, styled
from lateen.cli.tables_dump import read_dump
from lateen.errors import LateenError
from lateen.settings import Settings
from lateen.wire.access import AccessReport, PolicyInfo
from lateen.wire.control import call_control
from lateen.wire.local import Query

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help="as lateen status names it, for example reviews-v3")
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print what is held; exit code 1 when the proxy does not hold a policy that it should."""
    settings = Settings.from_env(state=options.state)
    dump = read_dump(ask_json(settings, options.workload, "/config_dump"))
    gateway = str(dump.bootstrap.get("node", {}).get("id", "")).startswith("router~")
    ports, policies, issuers = held_guards(dump.listeners, gateway=gateway, extensions=dump.extensions)
    report, away = _ask(settings, options.workload)
    missing = _missing(report, policies)
    if options.output != "table":
        print_data(_data(options.workload, ports, policies, issuers, report, missing), options.output)
    else:
        _print(ports, policies, issuers, report)
        _print_notes(missing, away)
    return 1 if missing else 0


def _ask(settings: Settings, workload: str) -> tuple[AccessReport | None, str]:
    """Return what the control plane says, or why it says nothing."""
    try:
        return call_control(settings, "Access", Query(workload=workload)), ""
    except LateenError as error:
        return None, str(error)


def _missing(report: AccessReport | None, held: Iterable[HeldPolicy]) -> list[PolicyInfo]:
    if report is None:
        return []
    names = {(policy.namespace, policy.name) for policy in held}
    return [
        policy
        for policy in report.policies
        if policy.kind == "AuthorizationPolicy" and (policy.namespace, policy.name) not in names
    ]


def _place(report: AccessReport | None, held: HeldPolicy) -> str:
    for policy in report.policies if report is not None else ():
        if policy.kind == "AuthorizationPolicy" and (policy.namespace, policy.name) == (held.namespace, held.name):
            return f"{policy.file}:{policy.line}"
    return "-"


def _print(
    ports: Sequence[Guarded],
    policies: Sequence[HeldPolicy],
    issuers: Sequence[HeldIssuer],
    report: AccessReport | None,
) -> None:
    if report is not None:
        sys.stdout.write(f"{styled(report.workload, '1')} is {report.identity}\n\n")
    print_table(("port", "carries", "mutual TLS"), [(_port(one.port), _carries(one), one.mtls) for one in ports])
    sys.stdout.write("\n")
    if policies:
        print_table(
            ("action", "policy", "rules", "ports", "state", "written at"),
            [
                (
                    one.action + (f" by {one.provider}" if one.provider else ""),
                    f"{one.namespace}/{one.name}",
                    one.rules,
                    _ports(one.ports),
                    styled("dry run", "33") if one.dry_run else "enforced",
                    _place(report, one),
                )
                for one in policies
            ],
        )
        if any(one.action == "ALLOW" and not one.dry_run for one in policies):
            sys.stdout.write("what no ALLOW policy matches is denied\n")
    else:
        sys.stdout.write("no AuthorizationPolicy is in force: whoever can connect is allowed\n")
    if issuers:
        sys.stdout.write("\n")
        print_table(("tokens of issuer", "ports"), [(one.issuer or "(any)", _ports(one.ports)) for one in issuers])


def _print_notes(missing: Iterable[PolicyInfo], away: str) -> None:
    for policy in missing:
        sys.stdout.write(
            f"\n{styled('not held', '31')}: {policy.kind} {policy.namespace}/{policy.name} "
            f"({policy.file}:{policy.line}) is for this workload, and its proxy does not hold it; "
            "see lateen proxy-status\n"
        )
    if away:
        sys.stdout.write(f"\nwhere policies were written is not known: {away}\n")


def _data(
    workload: str,
    ports: Iterable[Guarded],
    policies: Iterable[HeldPolicy],
    issuers: Iterable[HeldIssuer],
    report: AccessReport | None,
    missing: Iterable[PolicyInfo],
) -> dict[str, Any]:
    return {
        "workload": workload,
        "identity": report.identity if report is not None else "",
        "ports": [{"port": one.port, "http": one.http, "tcp": one.tcp, "mutualTls": one.mtls} for one in ports],
        "policies": [
            {
                "action": one.action,
                "namespace": one.namespace,
                "name": one.name,
                "rules": one.rules,
                "ports": list(one.ports),
                "dryRun": one.dry_run,
                "provider": one.provider,
                "writtenAt": _place(report, one),
            }
            for one in policies
        ],
        "issuers": [{"issuer": one.issuer, "ports": list(one.ports)} for one in issuers],
        "notHeld": [
            {"namespace": one.namespace, "name": one.name, "writtenAt": f"{one.file}:{one.line}"} for one in missing
        ],
    }


def _carries(guarded: Guarded) -> str:
    return ", ".join(word for word, found in (("HTTP", guarded.http), ("TCP", guarded.tcp)) if found) or "-"


def _port(port: int) -> str:
    return str(port) if port else "others"


def _ports(ports: Iterable[int]) -> str:
    return ", ".join(_port(port) for port in ports)
