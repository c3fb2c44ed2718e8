"""`lateen gateway`: an ingress gateway, which Gateway resources select by its labels."""

from __future__ import annotations

import argparse

from lateen.cli.run import add_workload_arguments, run_spec
from lateen.cli.units import parse_address_argument
from lateen.errors import BadInput
from lateen.wire.local import HTTP3_LABEL, WorkloadPort

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="ingressgateway", help="(default: %(default)s)")
    parser.add_argument(
        "--listen",
        metavar="[ADDRESS:]PORT[:TARGET]",
        action="append",
        type=parse_address_argument,
        default=[],
        help="show the gateway's port TARGET (default 80) on the host's loopback, or on ADDRESS; may be repeated "
        "(default: 8080)",
    )
    parser.add_argument(
        "--no-listen",
        action="store_true",
        help="show no port on the host: for gateways that only the mesh calls (egress)",
    )
    parser.add_argument("--http3", action="store_true", help="serve what is served by HTTPS by HTTP/3 as well, on UDP")
    add_workload_arguments(parser)


def run(options: argparse.Namespace) -> int:
    from lateen.agent.spec import HostListener

    if options.no_listen and options.listen:
        raise BadInput("--no-listen and --listen: one of them wanted")
    listen = options.listen or ([] if options.no_listen else [("127.0.0.1", 8080, 80)])
    # As Istio's installation labels them: Gateways select `istio: ingressgateway`, `istio: egressgateway`.
    http3 = [f"{HTTP3_LABEL}=true"] if options.http3 else []
    options.label = [f"istio={options.name.removeprefix('istio-')}", f"app={options.name}", *http3, *options.label]
    return run_spec(
        options,
        name=options.name,
        kind="gateway",
        ports=tuple(WorkloadPort(name=f"http-{target}", number=target, target=port) for _, port, target in listen),
        listeners=tuple(
            HostListener(address=address, port=port, gateway_port=target, datagrams=options.http3)
            for address, port, target in listen
        ),
        service_account=options.service_account or options.name,
    )
