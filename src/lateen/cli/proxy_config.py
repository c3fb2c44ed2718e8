"""`lateen proxy-config PART WORKLOAD`: what the workload's Envoy really holds, asked of Envoy itself.

Nothing here comes from the control plane: this works while it is away, and shows what it sent only if Envoy took it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from lateen.cli.admin import ask_json
from lateen.cli.output import add_output_argument, print_data, print_table
from lateen.cli.tables_dump import Dump, read_dump, redact
from lateen.cli.tables_listeners import LISTENER_COLUMNS, is_wanted_listener, listener_rows
from lateen.cli.tables_proxy import (
    CLUSTER_COLUMNS,
    ENDPOINT_COLUMNS,
    ROUTE_COLUMNS,
    SECRET_COLUMNS,
    bootstrap_rows,
    cluster_rows,
    endpoint_rows,
    hostname_and_port,
    route_rows,
    secret_rows,
)
from lateen.settings import Settings

__all__ = ["PARTS", "Filters", "Held", "add_arguments", "data_of", "run", "table_of"]

PARTS: Final = ("bootstrap", "listeners", "routes", "clusters", "endpoints", "secrets")
# What istioctl calls them too.
ALIASES: Final = {
    **{part.removesuffix("s"): part for part in PARTS},
    "a": "all",
    "b": "bootstrap",
    "c": "clusters",
    "ep": "endpoints",
    "l": "listeners",
    "r": "routes",
    "s": "secrets",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What to show; the defaults show everything."""

    fqdn: str = ""
    port: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Everything that one proxy holds."""

    dump: Dump
    statuses: Sequence[Any]  # envoy.admin.v3.ClusterStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", metavar="PART", type=_parse_part, help=f"one of {', '.join(PARTS)}, all")
    parser.add_argument("workload", metavar="WORKLOAD", help="as lateen status names it, for example reviews-v3")
    parser.add_argument("--fqdn", default="", help="only services whose hostname contains this")
    parser.add_argument("--port", type=int, help="only this port")
    parser.add_argument(
        "--name", default="", help="only resources whose name contains this; for routes, the whole name"
    )
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    held = _ask(settings, options.workload, options.part)
    filters = Filters(fqdn=options.fqdn, port=options.port, name=options.name)
    parts = PARTS if options.part == "all" else (options.part,)
    if options.output != "table":
        found = {part: data_of(part, held, filters) for part in parts}
        print_data(found if options.part == "all" else found[options.part], options.output)
        return 0
    for position, part in enumerate(parts):
        if len(parts) > 1:
            sys.stdout.write(f"{'' if position == 0 else chr(10)}{part.upper()}\n")
        print_table(*table_of(part, held, filters, datetime.now(UTC)))
    _print_notes(held, parts)
    return 0


def table_of(part: str, held: Held, filters: Filters, now: datetime) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the columns and the rows of one part."""
    fqdn, port, name = filters.fqdn, filters.port, filters.name
    match part:
        case "bootstrap":
            return ("fact", "value"), bootstrap_rows(held.dump.bootstrap)
        case "listeners":
            return LISTENER_COLUMNS, listener_rows(held.dump.listeners, port=port, name=name)
        case "routes":
            return ROUTE_COLUMNS, route_rows(_routes(held, filters), fqdn=fqdn)
        case "clusters":
            return CLUSTER_COLUMNS, cluster_rows(held.dump.clusters, fqdn=fqdn, port=port, name=name)
        case "endpoints":
            return ENDPOINT_COLUMNS, endpoint_rows(held.statuses, fqdn=fqdn, port=port, name=name)
        case "secrets":
            return SECRET_COLUMNS, secret_rows(held.dump.secrets, now, name=name)
        case _:
            raise ValueError(f"part {part!r}; one of {PARTS} wanted")


def data_of(part: str, held: Held, filters: Filters) -> Any:
    """Return the messages of one part, as Envoy writes them in JSON."""
    match part:
        case "bootstrap":
            return held.dump.bootstrap
        case "listeners":
            return [
                message
                for message in held.dump.listeners
                if is_wanted_listener(message, port=filters.port, name=filters.name)
            ]
        case "routes":
            return [message for message in _routes(held, filters) if not filters.fqdn or _serves(message, filters.fqdn)]
        case "clusters":
            return [message for message in held.dump.clusters if _has_cluster(message.get("name", ""), filters)]
        case "endpoints":
            return [status for status in held.statuses if _has_cluster(status.get("name", ""), filters)]
        case _:
            return [
                {"name": entry.name, "status": entry.status, "secret": entry.secret}
                for entry in held.dump.secrets
                if filters.name in entry.name
            ]


def _parse_part(text: str) -> str:
    part = ALIASES.get(text, text)
    if part not in (*PARTS, "all"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(PARTS)}, all")
    return part


def _ask(settings: Settings, workload: str, part: str) -> Held:
    dump = Dump(bootstrap={})
    if part != "endpoints":
        dump = read_dump(ask_json(settings, workload, "/config_dump"))
    statuses: Sequence[Any] = ()
    if part in ("endpoints", "all"):
        statuses = redact(ask_json(settings, workload, "/clusters?format=json").get("cluster_statuses", ()))
    return Held(dump, sorted(statuses, key=lambda status: str(status.get("name", ""))))


def _routes(held: Held, filters: Filters) -> list[Any]:
    """Return the wanted route configurations. A port's are named `9080`, `HOST:9080`, `http.80` or `inbound|9080||`."""
    return [
        config
        for config in held.dump.routes
        if filters.name in ("", config.get("name", ""))
        and (filters.port is None or str(filters.port) in re.split(r"[:|.]", config.get("name", "")))
    ]


def _serves(config: Any, fqdn: str) -> bool:
    return any(fqdn in domain for host in config.get("virtual_hosts", ()) for domain in host.get("domains", ()))


def _has_cluster(name: str, filters: Filters) -> bool:
    hostname, port = hostname_and_port(name)
    return filters.fqdn in hostname and filters.name in name and filters.port in (None, port)


def _print_notes(held: Held, parts: Sequence[str]) -> None:
    if {"listeners", "clusters"} & set(parts):
        for note in held.dump.notes:
            sys.stdout.write(f"{note.name} {note.text}\n")
