"""What AuthorizationPolicy, PeerAuthentication and RequestAuthentication must satisfy beyond their shape.

In: a decoded `Object`. Out: its faults, in the order of the document. Rule ids (AP-, PA-, RA-) are those of docs/api.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_port, check_selector, check_subnet, check_targets
from lateen.api.check_jwt import check_jwt_rule
from lateen.api.field_names import yaml_name
from lateen.api.places import join_path
from lateen.api.policy_reading import POLICY_TEXT_BYTES, header_of, is_header_name
from lateen.api.security import (
    AuthorizationPolicy,
    Condition,
    Operation,
    PeerAuthentication,
    RequestAuthentication,
    Rule,
    Source,
)
from lateen.api.suggest import nearest, seen

__all__ = ["check_authorization_policy", "check_peer_authentication", "check_request_authentication"]

RULES_LIMIT = 512
SERVICE_ACCOUNTS_LIMIT = 16
SERVICE_ACCOUNT_LENGTH = 320
JWT_RULES_LIMIT = 4096
DRY_RUN = "istio.io/dry-run"
BOOLEAN_LITERALS = re.compile(r"(1|t|T|true|True|TRUE|0|f|F|false|False|FALSE)\Z")  # what Go's ParseBool takes

# Identities come from mutual TLS or from tokens; an authorizer is asked before tokens are read (AP-03, AP-04).
_NOT_FOR_CUSTOM = (
    "namespaces",
    "not_namespaces",
    "service_accounts",
    "not_service_accounts",
    "trust_domains",
    "not_trust_domains",
    "principals",
    "not_principals",
    "request_principals",
    "not_request_principals",
)
_KEYS_NOT_FOR_CUSTOM = frozenset(
    {"source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal"}
)
_KEYS = frozenset(
    {
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.serviceAccount",
        "source.principal",
        "source.trustDomain",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "destination.ip",
        "destination.port",
        "connection.sni",
    }
)
_BRACKETED = ("request.headers", "request.auth.claims", "experimental.envoy.filters.")
_IP_KEYS = frozenset({"source.ip", "remote.ip", "destination.ip"})
_TCP_SOURCE = (
    "principals",
    "namespaces",
    "ip_blocks",
    "remote_ip_blocks",
    "service_accounts",
    "not_principals",
    "not_namespaces",
    "not_ip_blocks",
    "not_remote_ip_blocks",
    "not_service_accounts",
)
_UNSAID = "it counts as a match where that keeps out, as none where that lets in"
_PATH_LITERAL = re.compile(r"[A-Za-z0-9\-._~%!$&'()+,;:@=]+")


# ---------------------------------------------------------------- AuthorizationPolicy


def check_authorization_policy(obj: Object) -> Iterator[Problem]:
    """Yield every fault of an AuthorizationPolicy."""
    policy: AuthorizationPolicy = obj.spec
    yield from check_targets(obj)
    yield from _check_action(obj, policy)
    yield from _check_dry_run(obj, policy)
    rules = policy.rules or ()
    if len(rules) > RULES_LIMIT:
        yield obj.problem("spec.rules", f"at most {RULES_LIMIT} rules are allowed, got {len(rules)}")
    for i, rule in enumerate(rules):
        yield from _check_rule(obj, rule, f"spec.rules[{i}]", policy.action)


def _check_action(obj: Object, policy: AuthorizationPolicy) -> Iterator[Problem]:
    provider = policy.provider
    if policy.action == "CUSTOM":
        if not policy.rules:
            yield obj.problem("spec.rules", "action CUSTOM needs rules, which say what the provider is asked about")
        elif provider is None or not provider.name:
            yield obj.problem("spec.provider.name", "action CUSTOM needs a provider's name")
    elif provider is not None:
        yield obj.problem("spec.provider", f"only action CUSTOM has a provider, got action {policy.action}")
    if policy.action == "DENY" and not policy.rules:
        yield obj.problem("spec.rules", "action DENY needs rules; without any it would never deny")


def _check_dry_run(obj: Object, policy: AuthorizationPolicy) -> Iterator[Problem]:
    value = obj.annotations.get(DRY_RUN)
    path = join_path("metadata.annotations", DRY_RUN)
    if value is None:
        return
    if policy.action not in ("ALLOW", "DENY"):
        yield obj.problem(path, f"dry run works for actions ALLOW and DENY, got {policy.action}")
    elif BOOLEAN_LITERALS.match(value) is None:
        yield obj.problem(path, f"must be true or false, got {seen(value)}")


def _check_rule(obj: Object, rule: Rule, path: str, action: str) -> Iterator[Problem]:
    for name, entries in (("from", rule.from_), ("to", rule.to)):
        if entries is not None and not entries:
            yield obj.problem(f"{path}.{name}", "must not be an empty list; leave it out to match everything")
    if len(rule.from_ or ()) > RULES_LIMIT:
        yield obj.problem(f"{path}.from", f"at most {RULES_LIMIT} entries are allowed, got {len(rule.from_ or ())}")
    for i, origin in enumerate(rule.from_ or ()):
        place = f"{path}.from[{i}].source"
        if origin.source is None:
            yield obj.problem(place, "is required")
        else:
            yield from _check_source(obj, origin.source, place, action)
    for i, target in enumerate(rule.to or ()):
        place = f"{path}.to[{i}].operation"
        if target.operation is None:
            yield obj.problem(place, "is required")
        else:
            yield from _check_operation(obj, target.operation, place)
    for i, condition in enumerate(rule.when or ()):
        yield from _check_condition(obj, condition, f"{path}.when[{i}]", action)
    if action == "DENY":
        yield from _check_tcp_reach(obj, rule, path)


def _check_source(obj: Object, source: Source, path: str, action: str) -> Iterator[Problem]:
    if not _filled(source):
        yield obj.problem(path, "must have at least one field; leave out `from` to match every source")
    if action == "CUSTOM":
        for name in _NOT_FOR_CUSTOM:
            if getattr(source, name):
                yield obj.problem(f"{path}.{yaml_name(source, name)}", "cannot be used with action CUSTOM")
    accounts = source.service_accounts or source.not_service_accounts
    for name in ("principals", "not_principals", "namespaces", "not_namespaces"):
        if accounts and getattr(source, name):
            yield obj.problem(
                f"{path}.{yaml_name(source, name)}", "cannot be combined with serviceAccounts or notServiceAccounts"
            )
    for name, index, value in _values(source):
        place = f"{path}.{yaml_name(source, name)}[{index}]"
        yield from _check_length(obj, value, place)
        if not value:
            yield obj.problem(place, "must not be empty")
        elif name.endswith("ip_blocks"):
            yield from check_subnet(obj, value, place)
        elif name.endswith("service_accounts"):
            yield from _check_service_account(obj, value, place)
        elif name.endswith("trust_domains"):
            yield from _check_trust_domain(obj, value, place, slash=False)
    for name in ("service_accounts", "not_service_accounts"):
        count = len(getattr(source, name) or ())
        if count > SERVICE_ACCOUNTS_LIMIT:
            yield obj.problem(
                f"{path}.{yaml_name(source, name)}",
                f"at most {SERVICE_ACCOUNTS_LIMIT} service accounts are allowed, got {count}",
            )


def _check_operation(obj: Object, operation: Operation, path: str) -> Iterator[Problem]:
    if not _filled(operation):
        yield obj.problem(path, "must have at least one field; leave out `to` to match every operation")
    for name, index, value in _values(operation):
        place = f"{path}.{yaml_name(operation, name)}[{index}]"
        yield from _check_length(obj, value, place)
        if not value:
            yield obj.problem(place, "must not be empty")
        elif name.endswith("ports"):
            yield from _check_port_text(obj, value, place)
        elif name.endswith("paths"):
            yield from _check_path(obj, value, place)


def _check_path(obj: Object, value: str, path: str) -> Iterator[Problem]:
    templated = "{*}" in value or "{**}" in value
    rest_taken = False
    for segment in value.strip("/").split("/"):
        if segment in ("{*}", "{**}"):
            if rest_taken:
                yield obj.problem(
                    path, f"nothing but literal segments may follow {{**}}, got {segment} in {seen(value)}"
                )
            rest_taken = rest_taken or segment == "{**}"
        elif "{" in segment or "}" in segment:
            yield obj.problem(path, f"braces may only form a whole segment {{*}} or {{**}}, got {seen(segment)}")
        elif templated and not _PATH_LITERAL.fullmatch(segment):
            yield obj.problem(
                path,
                f"a segment beside {{*}} or {{**}} must be letters, digits and -._~%!$&'()+,;:@=, got {seen(segment)}",
            )


def _check_condition(obj: Object, condition: Condition, path: str, action: str) -> Iterator[Problem]:
    key = condition.key
    if not key:
        yield obj.problem(f"{path}.key", "must not be empty")
        return
    if not condition.values and not condition.not_values:
        yield obj.problem(path, f"needs values or notValues for {seen(key)}")
    known = yield from _check_key(obj, key, f"{path}.key")
    if action == "CUSTOM" and (key in _KEYS_NOT_FOR_CUSTOM or key.startswith("request.auth.")):
        yield obj.problem(f"{path}.key", f"{seen(key)} cannot be used with action CUSTOM")
    header = header_of(key)
    if header is not None and not is_header_name(header):
        yield obj.problem(f"{path}.key", f"no header can have the name {seen(header)}: {_UNSAID}", "warning")
    for name, index, value in _values(condition):
        place = f"{path}.{yaml_name(condition, name)}[{index}]"
        yield from _check_length(obj, value, place)
        if not value:
            yield obj.problem(place, "must not be empty")
        elif known:
            yield from _check_value(obj, key, value, place)


def _check_key(obj: Object, key: str, path: str) -> Generator[Problem, None, bool]:
    """Return whether the key is a known one, so that its values can be judged."""
    if key in _KEYS:
        return True
    prefix = next((p for p in _BRACKETED if key.startswith(p)), None)
    if prefix is None:
        near = nearest(key, (*_KEYS, *_BRACKETED))
        hint = f", did you mean {near}?" if near is not None else ""
        yield obj.problem(path, f"is not an attribute that conditions know, got {seen(key)}{hint}")
        return False
    # `a[b]`, and for claims `a[b][c]`; nothing may follow the last bracket.
    shape = r"(\[[^\[\]]+\])+" if prefix == "request.auth.claims" else r"\[.+\]"
    name = r"[^\[\]]+" if prefix.endswith(".") else ""
    if not re.fullmatch(re.escape(prefix) + name + shape, key):
        yield obj.problem(
            path, f"must be of the form {prefix.rstrip('.')}{'.<filter>' if name else ''}[<name>], got {seen(key)}"
        )
        return False
    return True


def _check_value(obj: Object, key: str, value: str, path: str) -> Iterator[Problem]:
    if key in _IP_KEYS:
        yield from check_subnet(obj, value, path)
    elif key == "destination.port":
        yield from _check_port_text(obj, value, path)
    elif key == "source.serviceAccount":
        yield from _check_service_account(obj, value, path)
    elif key == "source.trustDomain":
        yield from _check_trust_domain(obj, value, path, slash=True)


def _check_length(obj: Object, value: str, path: str) -> Iterator[Problem]:
    size = len(value.encode())
    if size > POLICY_TEXT_BYTES:
        yield obj.problem(path, f"is longer than {POLICY_TEXT_BYTES} bytes, got {size}: {_UNSAID}", "warning")


def _check_port_text(obj: Object, value: str, path: str) -> Iterator[Problem]:
    if not (value.isascii() and value.isdigit() and int(value) <= 65535):
        yield obj.problem(path, f"must be a port from 0 to 65535, got {seen(value)}")


def _check_service_account(obj: Object, value: str, path: str) -> Iterator[Problem]:
    if len(value) > SERVICE_ACCOUNT_LENGTH:
        yield obj.problem(path, f"must have at most {SERVICE_ACCOUNT_LENGTH} characters, got {len(value)}")
    if "*" in value:
        yield obj.problem(path, f"service accounts are compared exactly, so * is not allowed, got {seen(value)}")
    parts = value.split("/")
    if len(parts) > 2 or not all(parts):
        yield obj.problem(path, f"must be <service account> or <namespace>/<service account>, got {seen(value)}")


def _check_trust_domain(obj: Object, value: str, path: str, *, slash: bool) -> Iterator[Problem]:
    if value.count("*") > 1 or "*" in value[1:-1]:
        yield obj.problem(path, f"* may stand alone, first or last, and only once, got {seen(value)}")
    if not slash and "/" in value:
        yield obj.problem(path, f"a trust domain has no /, got {seen(value)}")


def _check_tcp_reach(obj: Object, rule: Rule, path: str) -> Iterator[Problem]:
    """Warn about a DENY rule that names nothing TCP knows: on a TCP port it then denies everything (AP-33)."""
    sources = [entry.source for entry in rule.from_ or () if entry.source is not None]
    operations = [entry.operation for entry in rule.to or () if entry.operation is not None]
    by_source = any(getattr(source, name) for source in sources for name in _TCP_SOURCE)
    by_port = any(operation.ports or operation.not_ports for operation in operations)
    if (sources and not rule.to and not by_source) or (operations and not by_port):
        yield obj.problem(
            path,
            "on TCP ports this denies everything, since only HTTP has what it names; add `ports` to narrow it",
            "warning",
        )


def _filled(spec: Source | Operation) -> bool:
    return any(getattr(spec, name) for name in spec.__struct_fields__)


def _values(spec: Source | Operation | Condition) -> Iterator[tuple[str, int, str]]:
    """Yield (field, index, value) of every list of a struct, in order."""
    for name in spec.__struct_fields__:
        values = getattr(spec, name)
        if isinstance(values, tuple):
            for index, value in enumerate(values):
                yield name, index, value


# ---------------------------------------------------------------- PeerAuthentication


def check_peer_authentication(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a PeerAuthentication."""
    policy: PeerAuthentication = obj.spec
    yield from check_selector(obj, policy.selector, "spec.selector")
    if policy.port_level_mtls is None:
        return
    if not policy.port_level_mtls:
        yield obj.problem("spec.portLevelMtls", "must not be empty; leave it out")
    elif policy.selector is None or not policy.selector.match_labels:
        yield obj.problem("spec.portLevelMtls", "needs a selector with labels: ports belong to workloads")
    for port in policy.port_level_mtls:
        yield from check_port(obj, port, join_path("spec.portLevelMtls", port))


# ---------------------------------------------------------------- RequestAuthentication


def check_request_authentication(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a RequestAuthentication."""
    policy: RequestAuthentication = obj.spec
    yield from check_targets(obj)
    rules = policy.jwt_rules or ()
    if len(rules) > JWT_RULES_LIMIT:
        yield obj.problem("spec.jwtRules", f"at most {JWT_RULES_LIMIT} rules are allowed, got {len(rules)}")
    for i, rule in enumerate(rules):
        yield from check_jwt_rule(obj, rule, f"spec.jwtRules[{i}]")
