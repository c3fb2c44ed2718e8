"""`lateen run -- COMMAND`: a command as a workload of the mesh, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import secrets
import sys
from pathlib import Path

from lateen.cli.units import parse_duration_argument, parse_port_argument, parse_resolver_argument
from lateen.errors import BadInput
from lateen.settings import Settings
from lateen.wire.local import WorkloadPort

__all__ = ["add_arguments", "add_workload_arguments", "parse_labels", "run", "run_spec"]


MAX_GROUP = 32  # of the 40 characters that a workload's name may have
NAME_BYTES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "lateen run --service NAME [--version V] [--port NAME:PORT ...] [options] -- COMMAND [ARG ...]"
    parser.add_argument("--service", default="", help="short name of the service that the command serves")
    parser.add_argument("--version", default="", help="its version; the workload is called SERVICE-VERSION")
    parser.add_argument("--name", default="", help="another name for the workload")
    parser.add_argument(
        "--port",
        metavar="NAME:PORT[:TARGET]",
        action="append",
        default=[],
        type=parse_port_argument,
        help="a port that clients use, as http:9080; the name's first part is the protocol; TARGET is where the "
        "command listens, if elsewhere; may be repeated",
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        default="",
        help="a WorkloadGroup of the namespace: labels, ports, identity, place and health probe are what it says",
    )
    parser.add_argument(
        "--annotation",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="as prometheus.io/scrape=true, prometheus.io/port=9102: the application's metrics are told with the "
        "proxy's; may be repeated",
    )
    add_workload_arguments(parser)
    parser.add_argument("argv", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run, after --")


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what workloads and gateways have in common."""
    parser.add_argument("--namespace", "-n", default="default", help="(default: %(default)s)")
    parser.add_argument("--service-account", default="", help="its identity (default: the service's name, or default)")
    parser.add_argument("--label", metavar="KEY=VALUE", action="append", default=[], help="may be repeated")
    parser.add_argument(
        "--locality", default="", metavar="REGION/ZONE/SUBZONE", help="where it runs; later parts may be left away"
    )
    parser.add_argument(
        "--network-name", default="", metavar="NAME", help="network it is in: others reach it by the network's gateways"
    )
    parser.add_argument(
        "--mode", choices=("auto", "capture", "explicit"), default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--address",
        metavar="IP",
        default="",
        help="its own address, one of this machine's, where others reach it; explicit mode (default: a loopback one)",
    )
    elsewhere = parser.add_argument_group("from elsewhere", "a workload on another machine than its control plane")
    elsewhere.add_argument("--control-plane", metavar="HOST:PORT", help="where 'lateen up --listen' listens")
    elsewhere.add_argument("--join-token-file", metavar="FILE", help="what 'lateen token create' has printed")
    elsewhere.add_argument("--ca-root", metavar="FILE", help="the mesh's roots, if they are not in the token's file")
    parser.add_argument(
        "--resolver",
        metavar="IP[:PORT]",
        action="append",
        default=[],
        type=parse_resolver_argument,
        help="DNS server that is asked for names outside of the mesh, instead of the host's; may be repeated",
    )
    parser.add_argument(
        "--metrics-from",
        metavar="RANGE",
        action="append",
        default=[],
        help="addresses, as 10.77.0.7 or 10.77.0.0/16, that may read its metrics on port 15020; may be repeated",
    )
    parser.add_argument("--cert-ttl", metavar="DURATION", type=parse_duration_argument, help="life of its certificates")
    parser.add_argument(
        "--drain", metavar="DURATION", type=parse_duration_argument, help="longest wait for requests in flight (5s)"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="no log lines of the agent but warnings")


def run(options: argparse.Namespace) -> int:
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise BadInput("no command given: lateen run --service NAME --port http:8080 -- COMMAND")
    name = options.name or "-".join(part for part in (options.service, options.version) if part)
    if not name and options.group:
        # Many run from one group, each under a name of its own; the group's is cut where names may not be longer.
        name = f"{options.group[:MAX_GROUP]}-{secrets.token_hex(NAME_BYTES)}"
    if options.group and options.service_account:
        raise BadInput("--service-account: a workload of a group has the group's; leave one of the two out")
    if not name:
        raise BadInput("a workload wants a name: give --service (and --version), --group, or --name")
    return run_spec(
        options,
        name=name,
        service=options.service,
        version=options.version,
        ports=_named(options.port),
        argv=tuple(argv),
        service_account=options.service_account or "default",
        group=options.group,
        annotations=parse_labels(options.annotation, "annotation"),
    )


def run_spec(options: argparse.Namespace, **fields: object) -> int:
    """Run one workload until it ends and return its exit code; `fields` are `WorkloadSpec`'s."""
    # Imported here: an agent's imports cost memory and a tenth of a second, which no other command should pay.
    from lateen.agent.link import Link, RemoteLink
    from lateen.agent.log import Log
    from lateen.agent.runner import run_workload
    from lateen.agent.spec import WorkloadSpec

    if bool(options.control_plane) != bool(options.join_token_file):
        raise BadInput("--control-plane and --join-token-file want each other")
    if options.ca_root and not options.control_plane:
        raise BadInput("--ca-root wants --control-plane")
    log = Log(sys.stderr, level="warning" if options.quiet else "info")
    if options.drain is not None:
        fields["drain"] = options.drain
    core = resource.getrlimit(resource.RLIMIT_CORE)
    spec = WorkloadSpec(
        namespace=options.namespace,
        labels=parse_labels(options.label),
        locality=options.locality,
        network=options.network_name,
        env=dict(os.environ),
        mode="explicit" if options.address and options.mode == "auto" else options.mode,
        address=options.address,
        resolvers=tuple(options.resolver),
        metrics_from=tuple(options.metrics_from),
        certificate_lifetime=options.cert_ttl,
        core_limit=core[0],
        **fields,  # type: ignore[arg-type]  # the commands name them
    )
    settings = Settings.from_env(state=options.state)
    # The workload's keys are in this memory; its application may leave dumps of its own as before.
    resource.setrlimit(resource.RLIMIT_CORE, (0, core[1]))

    async def work() -> int:
        link: Link | None = None
        if options.control_plane:
            link = RemoteLink(
                options.control_plane,
                token_file=Path(options.join_token_file),
                roots_file=Path(options.ca_root) if options.ca_root else None,
                log=log.bind(workload=spec.name),
            )
        code: int = await run_workload(spec, settings, log=log, link=link)
        return code

    return asyncio.run(work())


def parse_labels(texts: list[str], what: str = "label") -> dict[str, str]:
    """Return KEY=VALUE texts as labels or as `what`. Raises `BadInput`."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"{what} must be KEY=VALUE, got {text!r}")
        labels[key] = value
    return labels


def _named(ports: list[WorkloadPort]) -> tuple[WorkloadPort, ...]:
    # A port without a name is one whose protocol is found out; names must still be unique.
    return tuple(
        port if port.name else WorkloadPort(name=f"port-{port.number}", number=port.number, target=port.target)
        for port in ports
    )
