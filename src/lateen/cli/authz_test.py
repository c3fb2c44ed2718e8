"""`lateen authz test --from ID --to WORKLOAD METHOD PATH`: allowed or denied, and by which rule.

Decided here, by `lateen.authz`, which is written from the specification and knows nothing of Envoy; a test holds it to
what real Envoys answer (docs/security/proof.md). What it decides on is what the control plane has in force.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec

from lateen.api.base import Origin
from lateen.api.decode import decode_object
from lateen.authz import Connection, Decision, HttpRequest, Match, Normalisation, Policy, Request, decide, policy_of
from lateen.cli.authz_tokens import is_for_others, parse_claims, space_delimited, token_state
from lateen.cli.output import add_output_argument, print_data, styled
from lateen.errors import BadInput
from lateen.settings import Settings
from lateen.wire.access import AccessReport, PolicyInfo, PortInfo
from lateen.wire.control import call_control
from lateen.wire.local import Query, StatusReport
from lateen.wire.spiffe import parse_workload_identity, split_spiffe_id

__all__ = ["add_arguments", "run"]

DENIED = 2  # exit code
UNAUTHENTICATED = 401
PLAIN = "none"
NO_ADDRESS = "0.0.0.0"  # noqa: S104 - an address that nobody has, for callers whose own is not known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="caller",
        metavar="ID",
        required=True,
        help="who asks: spiffe://..., TRUST-DOMAIN/ns/NS/sa/SA, NS/SA, a workload, or `none` for plain text",
    )
    parser.add_argument("--to", metavar="WORKLOAD", required=True, help="as lateen status names it")
    parser.add_argument("method", metavar="METHOD", nargs="?", default="", help="GET, POST...; none on TCP ports")
    parser.add_argument("path", metavar="PATH", nargs="?", default="/", help="with its query (default: /)")
    parser.add_argument(
        "-H", "--header", dest="headers", action="append", default=[], metavar="NAME:VALUE", help="may be repeated"
    )
    parser.add_argument("--host", default="", help="the request's authority (default: the service's hostname)")
    parser.add_argument("--port", type=int, default=0, help="the workload's port (default: its first)")
    parser.add_argument(
        "--source-ip", default="", metavar="IP", help="of the caller (default: the workload's of --from)"
    )
    parser.add_argument("--remote-ip", default="", metavar="IP", help="of the original client (default: --source-ip)")
    parser.add_argument("--sni", default="", help="server name of the connection")
    parser.add_argument(
        "--claims", default="", metavar="JSON|@FILE", help="what the caller's token says, taken as verified"
    )
    add_output_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print the answer; exit code 0 for allowed, 2 for denied."""
    settings = Settings.from_env(state=options.state)
    report = call_control(settings, "Access", Query(workload=options.to))
    caller, address = _caller(options.caller, report, settings)
    port = _port(report, options.port)
    request = _request(options, report, port=port, caller=caller, source_ip=options.source_ip or address)
    refusal = _refused_connection(report, port, caller)
    decision = None
    if not refusal:
        decision = decide(
            _policies(report.policies),
            request,
            normalisation=Normalisation(level=report.normalisation),  # type: ignore[arg-type]  # checked by the API
            trust_domains=report.trust_domains,
            providers=report.providers,  # type: ignore[arg-type]  # the report's words are the same
        )
        if decision.status == UNAUTHENTICATED and is_for_others(request, parse_claims(options.claims), report):
            decision = replace(decision, status=403, why="the token is for other audiences")
    allowed = decision is not None and decision.allowed
    if options.output != "table":
        print_data(_data(report, port, request, decision, refusal), options.output)
    elif decision is None:
        sys.stdout.write(f"{styled('denied', '31')}  the connection is refused: {refusal}\n")
    else:
        _print(decision, request)
    return 0 if allowed else DENIED


def _caller(text: str, report: AccessReport, settings: Settings) -> tuple[str | None, str]:
    """Return the caller's SPIFFE ID (None: plain text) and its address, as far as they are known."""
    if text == PLAIN:
        return None, NO_ADDRESS
    if "/" in text:
        if text.count("/") == 1:
            return str(parse_workload_identity(text, report.trust_domains[0])), NO_ADDRESS
        spelled = text if "://" in text else f"spiffe://{text}"
        split_spiffe_id(spelled)  # raises for what is none
        return spelled, NO_ADDRESS
    status: StatusReport = call_control(settings, "Status", Query(workload=text))
    for workload in status.workloads:
        if workload.name == text:
            return workload.identity, workload.ip
    raise BadInput(
        f"--from {text}: no such workload runs; wanted one that lateen status names, NAMESPACE/SERVICE-ACCOUNT, "
        f"a SPIFFE ID, or {PLAIN}"
    )


def _port(report: AccessReport, number: int) -> PortInfo:
    named = [port for port in report.ports if port.port]
    if number == 0:
        if not named:
            raise BadInput(f"{report.workload} serves no port that is known; name one with --port")
        return named[0]
    if not 1 <= number <= 65535:
        raise BadInput(f"--port {number}: a port between 1 and 65535 wanted")
    for port in named:
        if port.port == number:
            return port
    rest = next((port for port in report.ports if port.port == 0), PortInfo(port=0))
    return msgspec.structs.replace(rest, port=number)


def _request(
    options: argparse.Namespace, report: AccessReport, *, port: PortInfo, caller: str | None, source_ip: str
) -> Request:
    connection = Connection(
        source_ip=source_ip,
        remote_ip=options.remote_ip,
        peer=caller,
        sni=options.sni,
        destination_ip=report.ip,
        destination_port=port.port,
    )
    speaks_http = port.protocol in ("HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY")
    if not speaks_http and port.protocol and options.method:
        raise BadInput(
            f"port {port.port} of {report.workload} carries {port.protocol}, which has no method and no path"
        )
    if speaks_http and not options.method:
        raise BadInput(f"port {port.port} of {report.workload} carries {port.protocol}; wanted METHOD and PATH")
    if not options.method:
        return Request(connection=connection)
    claims = parse_claims(options.claims)
    token, known = token_state(claims, report)
    return Request(
        connection=connection,
        http=HttpRequest(
            method=options.method,
            authority=options.host or port.service or report.ip,
            path=options.path,
            headers=tuple(_header(text) for text in options.headers),
            token=token,  # type: ignore[arg-type]  # one of its three words
            claims=known,
            space_delimited=frozenset({"scope", "permission"} | space_delimited(claims, report)),
        ),
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise BadInput(f"-H {text!r}: NAME:VALUE wanted")
    return name.strip().lower(), value.strip()


def _refused_connection(report: AccessReport, port: PortInfo, caller: str | None) -> str:
    """Return why no connection comes about at all, "" when one does."""
    if caller is None:
        return f"port {port.port} is STRICT, and the caller speaks plain text" if port.mtls == "STRICT" else ""
    if not port.mtls:
        return ""
    if port.mtls == "DISABLE":
        return f"port {port.port} is DISABLE, and takes no mutual TLS; --from {PLAIN} is what callers are there"
    domain, _ = split_spiffe_id(caller)
    if domain not in report.trust_domains:
        known = ", ".join(report.trust_domains)
        return f"trust domain {domain} of the caller is none that this mesh takes; those are {known}"
    return ""


def _policies(infos: Iterable[PolicyInfo]) -> list[Policy]:
    found: list[Policy] = []
    for info in infos:
        if info.kind != "AuthorizationPolicy":
            continue
        lines = {f"spec.rules[{index}]": line for index, line in enumerate(info.rules)}
        decoded = decode_object(info.document, Origin(info.file, info.line))
        found.extend(replace(policy_of(obj), lines=lines) for obj in decoded.objects)
    return found


def _print(decision: Decision, request: Request) -> None:
    word = styled("allowed", "32") if decision.allowed else styled("denied", "31")
    answer = "" if decision.allowed else f" with {decision.status}" if request.http else ", the connection is closed"
    sys.stdout.write(f"{word}{answer}  {decision.why}\n")
    for provider in decision.asks:
        sys.stdout.write(f"  if authorizer {provider} agrees, which is asked first\n")
    for match in decision.audited:
        sys.stdout.write(f"  audited: {match}\n")
    for action, found in decision.dry_run.items():
        sys.stdout.write(f"  dry run: {_dry_run(action, found)}\n")
    for note in decision.normalised:
        sys.stdout.write(f"  compared: {note}\n")


def _dry_run(action: str, match: Match | None) -> str:
    if action == "ALLOW":
        return f"would be allowed: {match}" if match is not None else "would be denied: no ALLOW rule matches"
    return f"would be denied: {match}" if match is not None else "would not be denied"


def _data(
    report: AccessReport, port: PortInfo, request: Request, decision: Decision | None, refusal: str
) -> dict[str, Any]:
    head = {
        "allowed": decision is not None and decision.allowed,
        "from": request.connection.peer or PLAIN,
        "to": report.workload,
        "port": port.port,
    }
    if decision is None:
        return {**head, "why": f"the connection is refused: {refusal}"}
    return {
        **head,
        "status": decision.status if request.http is not None else 0,
        "action": decision.action,
        "why": decision.why,
        "match": _match(decision.match),
        "asks": list(decision.asks),
        "audited": [_match(match) for match in decision.audited],
        "dryRun": {action: _match(match) for action, match in decision.dry_run.items()},
        "normalised": list(decision.normalised),
    }


def _match(match: Match | None) -> dict[str, Any] | None:
    if match is None:
        return None
    policy = match.policy
    return {
        "action": policy.spec.action,
        "namespace": policy.namespace,
        "name": policy.name,
        "rule": match.rule,
        "writtenAt": f"{policy.origin.file}:{policy.line_of_rule(match.rule)}",
    }
