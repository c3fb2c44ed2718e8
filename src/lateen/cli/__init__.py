"""The command `lateen`: arguments in, one module a command; nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from lateen import __version__
from lateen.errors import BadInput, LateenError, Refused, Unavailable, Unsupported

__all__ = ["main"]

# command -> (module, one line of help), in the order `lateen --help` lists them
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "a mesh with the sample shop, live in this terminal"),
    "up": ("up", "run the control plane on a folder of YAML"),
    "serve": ("up", "the same as up"),
    "run": ("run", "run a command as a workload of the mesh"),
    "gateway": ("gateway", "run an ingress gateway"),
    "token": ("token", "join tokens: let a workload elsewhere into the mesh"),
    "validate": ("validate", "check configuration without a mesh, as the control plane would"),
    "status": ("status", "control plane, workloads, configuration errors"),
    "proxy-status": ("proxy_status", "how far each proxy is with its configuration"),
    "proxy-config": ("proxy_config", "what a proxy really holds"),
    "ca": ("ca", "the authority: what it signs with and who trusts it; issue, rotate, audit"),
    "mixer": ("mixer", "rules by expressions: tried out, or for any Envoy"),
    "authz": ("authz", "who may reach a workload: the policies in force, and what becomes of one request"),
    "top": ("top", "every edge of the mesh, live: rate, success, times, mutual TLS"),
    "graph": ("graph", "who calls whom, from what was really seen"),
    "logs": ("logs", "access logs of workloads, as they are written"),
    "trace": ("trace", "traces of requests: the newest, or one as a waterfall"),
    "metrics": ("metrics", "metrics of a workload, or of the control plane, as Prometheus text"),
    "collector": ("collector", "run a small collector of traces in the mesh"),
    "prometheus-config": ("prometheus_config", "what a Prometheus is told, to scrape the mesh"),
    "doctor": ("doctor", "what this machine can do, and what to install for the rest"),
    "version": ("version", "versions of Lateen and of its Envoy"),
}
HIDDEN = frozenset({"serve"})

# The one table from faults to exit codes. 64 is sysexits' EX_USAGE, as in Istio's CLI.
EXIT_CODES: tuple[tuple[type[LateenError], int], ...] = (
    (BadInput, 1),
    (Refused, 1),
    (Unavailable, 1),
    (Unsupported, 1),
    (LateenError, 1),
)
USAGE = 64


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # argparse ends the process itself
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: {message}\n")
        raise SystemExit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["--version"], ["-V"]):
        words = ["version", "--short"]
    name = words[0] if words and words[0] in COMMANDS else None
    parser = _build_parser(name)
    options = parser.parse_args(words)
    if name is None:
        parser.print_help()
        return 0 if not words else USAGE
    module = importlib.import_module(f"lateen.cli.{COMMANDS[name][0]}")
    try:
        code: int = module.run(options)
    except LateenError as error:
        sys.stderr.write(f"lateen {name}: {error}\n")
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        return 130  # as shells tell a command ended by SIGINT
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe had enough
        return 0
    return code


def _build_parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lateen",
        description="A service mesh that speaks Istio's API: real Envoys, real identities, on one machine.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="State is kept in ~/.local/state/lateen; LATEEN_STATE or --state names another folder.",
    )
    parser.add_argument("--version", "-V", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, (module, text) in COMMANDS.items():
        hidden: dict[str, Any] = {} if name in HIDDEN else {"help": text}
        command = commands.add_parser(name, description=f"{text[0].upper()}{text[1:]}.", **hidden)
        command.add_argument("--state", metavar="DIR", help="the mesh's state folder")
        if name == chosen:
            importlib.import_module(f"lateen.cli.{module}").add_arguments(command)
    return parser
