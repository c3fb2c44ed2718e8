"""`lateen token create|list|revoke`: join tokens, by which agents elsewhere get their first certificate."""

from __future__ import annotations

import argparse
import os
import sys

from lateen.cli.output import add_output_argument, print_data, print_table
from lateen.cli.units import parse_duration_argument
from lateen.errors import BadInput, Refused
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="create|list|revoke", required=True)
    create = actions.add_parser("create", help="make one and print it, once")
    create.add_argument(
        "--service-account", required=True, metavar="NAMESPACE/NAME", help="the identity that it lets in, and no other"
    )
    create.add_argument(
        "--ttl", metavar="DURATION", type=parse_duration_argument, default=None, help="how long it is valid (10m)"
    )
    create.add_argument("--uses", type=int, default=1, help="how many agents may join by it (default: %(default)s)")
    create.add_argument("--file", metavar="FILE", help="write it there, mode 0600, instead of printing it")
    listed = actions.add_parser("list", help="those that there are; never what they are")
    add_output_argument(listed)
    revoke = actions.add_parser("revoke", help="let nobody join by it any more; who has joined stays")
    revoke.add_argument("name", metavar="NAME", help="as 'lateen token list' shows it")


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    return {"create": _create, "list": _list, "revoke": _revoke}[options.action](options, settings)


def _create(options: argparse.Namespace, settings: Settings) -> int:
    from lateen.wire.control import call_control
    from lateen.wire.join import JoinTokenRequest

    namespace, slash, account = options.service_account.partition("/")
    if not slash or "/" in account:
        raise BadInput(f"--service-account: NAMESPACE/NAME wanted, got {options.service_account!r}")
    if options.file and os.path.lexists(options.file):
        raise Refused(f"{options.file} exists already; a join token is written to a new file only")
    request = JoinTokenRequest(namespace=namespace, service_account=account, uses=options.uses)
    if options.ttl is not None:
        request = JoinTokenRequest(
            namespace=namespace,
            service_account=account,
            uses=options.uses,
            lifetime_seconds=options.ttl.total_seconds(),
        )
    created = call_control(settings, "CreateJoinToken", request)
    info = created.info
    text = f"{created.text}\n{info.identity}\n{created.roots}"
    if options.file:
        _write(options.file, text)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()
    where = created.listen or "ADDRESS:PORT"
    sys.stderr.write(
        f"join token {info.name} for {info.identity}, valid until {info.expires}, for {info.uses} "
        f"use{'s' if info.uses > 1 else ''}; it is not shown again\n"
        f"use it with: lateen run --control-plane {where} --join-token-file FILE "
        f"--namespace {namespace} --service-account {account} ...\n"
    )
    if not created.listen:
        sys.stderr.write("warning: this control plane listens to nobody elsewhere: start it with --listen\n")
    return 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    from lateen.wire.control import call_control
    from lateen.wire.join import JoinTokenName

    report = call_control(settings, "ListJoinTokens", JoinTokenName())
    if options.output != "table":
        print_data(report, options.output)
        return 0
    print_table(
        ("name", "identity", "state", "used", "expires"),
        ((one.name, one.identity, one.state, f"{one.used} of {one.uses}", one.expires) for one in report.tokens),
    )
    return 0


def _revoke(options: argparse.Namespace, settings: Settings) -> int:
    from lateen.wire.control import call_control
    from lateen.wire.join import JoinTokenName

    (info,) = call_control(settings, "RevokeJoinToken", JoinTokenName(name=options.name)).tokens
    sys.stdout.write(f"join token {info.name} for {info.identity} is revoked; used {info.used} of {info.uses}\n")
    return 0


def _write(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
