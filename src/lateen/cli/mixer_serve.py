"""`lateen mixer serve`: Mixer for any Envoy, without a control plane, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import socket
from pathlib import Path

from lateen.cli.fetching import add_reach_arguments, reach_of
from lateen.cli.mixer_adapters import add_adapters_argument
from lateen.cli.redis_argument import add_redis_argument, redis_of
from lateen.cli.units import parse_listen_argument
from lateen.errors import BadInput
from lateen.logs import configure_logging

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules", metavar="DIR", help="folder of rules to watch")
    parser.add_argument("--listen", metavar="ADDRESS", required=True, help="unix:PATH or IP:PORT, for Envoys")
    parser.add_argument("--logs", metavar="DIR", help="folder that rules may log into; none: standard output alone")
    parser.add_argument(
        "--root-namespace", default="istio-system", metavar="NAME", help="its rules are for every proxy"
    )
    parser.add_argument(
        "--metrics", metavar="IP:PORT", type=parse_listen_argument, help="serve metrics there, at /metrics"
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="take an address that others reach: whoever connects is asked for nothing, and believed",
    )
    add_redis_argument(parser)
    add_adapters_argument(parser)
    add_reach_arguments(parser)
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON")
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)  # the control plane's own: rules come by it


def run(options: argparse.Namespace) -> int:
    if (options.rules is None) == (options.channel is None):
        raise BadInput("--rules is missing; name the folder of the rules' YAML")
    listen = _listen(options.listen, anybody=options.open)
    if options.metrics is not None and not options.open:
        _check_loopback("--metrics", options.metrics[0])
    configure_logging(json=options.log_json)
    # Imported here: these take half a second, --help should not.
    from lateen.mixer.court import make_court
    from lateen.mixer.means import Means
    from lateen.mixer.process import MixerOptions, run_mixer

    guard, ca_file = reach_of(options)

    channel = None
    if options.channel is not None:
        channel = socket.socket(fileno=os.dup(options.channel))
        os.close(options.channel)
        os.open(os.devnull, os.O_RDONLY)  # takes its place, as standard input of what adapters start
    return asyncio.run(
        run_mixer(
            MixerOptions(
                listen=listen,
                rules=Path(options.rules) if options.rules is not None else None,
                channel=channel,
                metrics=options.metrics,
            ),
            make_court(
                logs=Path(options.logs) if options.logs else None,
                root_namespace=options.root_namespace,
                means=Means(redis=redis_of(options), guard=guard, ca_file=ca_file, adapters=options.adapters),
            ),
        )
    )


def _listen(text: str, *, anybody: bool) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise BadInput("--listen unix: wants a path")
        return f"unix:{os.path.abspath(path)}"
    try:
        address, port = parse_listen_argument(text)
    except argparse.ArgumentTypeError as error:
        raise BadInput(f"--listen: unix:PATH or IP:PORT wanted: {error}") from error
    if not anybody:
        _check_loopback("--listen", address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _check_loopback(option: str, address: str) -> None:
    if not ipaddress.ip_address(address).is_loopback:
        raise BadInput(f"{option} {address}: others reach that address; --open allows it")
