"""`lateen collector`: a small collector of traces, as a workload of the mesh; `lateen trace` shows what it has."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping

from lateen.cli.run import add_workload_arguments, run_spec
from lateen.errors import BadInput
from lateen.settings import Settings
from lateen.wire.local import WorkloadPort

__all__ = ["add_arguments", "run", "workload_ports"]

# Receiver -> its port, and the name of that in the mesh, whose first part is the protocol.
RECEIVERS: Mapping[str, tuple[int, str]] = {
    "otlp_grpc": (4317, "grpc-otlp"),
    "otlp_http": (4318, "http-otlp"),
    "zipkin": (9411, "http-zipkin"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="collector", help="of the workload and its service (default: %(default)s)")
    for receiver, (port, _) in RECEIVERS.items():
        parser.add_argument(
            f"--{receiver.replace('_', '-')}",
            type=int,
            default=port,
            metavar="PORT",
            help=f"0: none (default: {port})",
        )
    parser.add_argument("--alone", action="store_true", help="no workload of a mesh: listen on --bind")
    parser.add_argument("--bind", default="127.0.0.1", metavar="IP", help="with --alone (default: %(default)s)")
    # How the workload's own process is started: where its proxy expects it, which the environment says.
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    add_workload_arguments(parser)


def run(options: argparse.Namespace) -> int:
    for receiver in RECEIVERS:
        if not 0 <= getattr(options, receiver) <= 65535:
            raise BadInput(f"port must be between 0 and 65535, got {getattr(options, receiver)}")
    if options.alone or options.inside:
        return _serve(options)
    state = Settings.from_env(state=options.state).state
    ports = workload_ports(options)
    words = [word for name in RECEIVERS for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    return run_spec(
        options,
        name=options.name,
        service=options.name,
        ports=ports,
        argv=(sys.executable, "-m", "lateen", "collector", "--state", str(state), "--inside", *words),
        service_account=options.service_account or options.name,
    )


def workload_ports(options: argparse.Namespace) -> tuple[WorkloadPort, ...]:
    """Return the ports of the receivers that are wanted."""
    return tuple(
        WorkloadPort(name=name, number=number, target=number)
        for receiver, (_, name) in RECEIVERS.items()
        if (number := getattr(options, receiver))
    )


def _serve(options: argparse.Namespace) -> int:
    from lateen.logs import configure_logging
    from lateen.observe.collector import Collector, CollectorOptions, serve_collector
    from lateen.observe.traces import TraceStore

    configure_logging()
    settings = Settings.from_env(state=options.state)
    ports = {receiver: getattr(options, receiver) for receiver in RECEIVERS}
    address = options.bind
    if options.inside:
        # In a network of its own its proxy dials the workload's address; in explicit mode, loopback and other ports.
        address = os.environ.get("BIND", "0.0.0.0")  # noqa: S104  # as above
        for receiver, (_, name) in RECEIVERS.items():
            if ports[receiver]:
                ports[receiver] = int(os.environ[f"PORT_{name.upper().replace('-', '_')}"])

    async def work() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        wanted = CollectorOptions(address=address, **ports)
        async with serve_collector(Collector(TraceStore()), wanted, settings.traces_socket):
            told = ", ".join(f"{receiver.replace('_', ' ')} {port}" for receiver, port in ports.items() if port)
            sys.stderr.write(f"lateen collector: takes spans on {address}: {told}; lateen trace shows them\n")
            await stop.wait()

    asyncio.run(work())
    return 0
