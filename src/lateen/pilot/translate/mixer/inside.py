"""What Envoy decides of Mixer's rules by itself, without a call.

In:  one `MixerCalls`.
Out: filters of RBAC, HTTP and network; the filter that finds out whether there is anything to ask; what is said to whom
     is refused.
Rules: docs/design/0023-compiled-rules.md. A refusal of Envoy's looks like the same refusal of Mixer's: status, body,
headers. Which rule it was is in the details of the answer, as the name of a policy. Policies are tried by their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption
from envoy.config.core.v3.cel_pb2 import CelExpressionConfig
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.http.set_metadata.v3.set_metadata_pb2 import Config as SetMetadata
from envoy.extensions.filters.http.set_metadata.v3.set_metadata_pb2 import Metadata
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter,
    ResponseMapper,
)
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher
from google.api.expr.v1alpha1.syntax_pb2 import Expr
from google.protobuf.struct_pb2 import Struct, Value

from lateen.expr.envoy_needs import Need
from lateen.pilot.model.values_called import Condition, MixerCalls, Refusal
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import cel_filter, uint32

__all__ = ["TEXTS", "asked_where", "gate", "http_rules", "mark", "marked", "refusals", "reply", "tcp_rules"]

DENY_FILTER: Final = "lateen.mixer.deny"
ALLOW_FILTER: Final = "lateen.mixer.allow"
GATE_FILTER: Final = "lateen.mixer.gate"
STAT_PREFIX: Final = "lateen_mixer."
RBAC_METADATA: Final = "envoy.filters.http.rbac"
_GATE_PREFIX: Final = "lateen_mixer_gate_"
_POLICY: Final = "shadow_effective_policy_id"
MARKS: Final = "lateen.mixer"
MARK_FILTER: Final = "lateen.mixer.mark"
ALLOWING: Final = "allowing"
CLOSED, OPEN = "1-closed", "2-open"
NOT_ALLOWED: Final = "no rule allows this\n"
_ANY_PERMISSION: Final = Permission(any=True)
_ANY_PRINCIPAL: Final = Principal(any=True)
TEXTS: Final = CelExpressionConfig(
    enable_string_functions=True, enable_string_concat=True, enable_string_conversion=False
)


def mark(key: str, value: str) -> HttpFilter:
    """Return a filter that marks requests which got so far: Envoy's refusals do not tell by which filter they are."""
    value_of = Struct(fields={key: Value(string_value=value)})
    marks = [Metadata(metadata_namespace=MARKS, value=value_of, allow_overwrite=True)]
    return HttpFilter(name=MARK_FILTER, typed_config=pack(SetMetadata(metadata=marks)))


def marked(key: str, value: str) -> str:
    """Return the condition, of Envoy's, that a request was marked so last."""
    return f'metadata.filter_metadata["{MARKS}"]["{key}"] == {json.dumps(value)}'


# An AuthorizationPolicy that refuses has the same details as rules that do not allow.
_MARK: Final = mark(ALLOWING, "yes")


def http_rules(calls: MixerCalls) -> tuple[HttpFilter, ...]:
    """Return the filters that refuse requests."""
    inside, found = calls.inside, []
    if inside.denies:
        denying = _rules(RBAC.DENY, inside.denies, calls)
        found.append(
            HttpFilter(
                name=DENY_FILTER,
                typed_config=pack(HttpRbac(rules=denying, rules_stat_prefix=STAT_PREFIX, track_per_rule_stats=True)),
            )
        )
    if inside.allows:
        allowing = HttpRbac(
            rules=_rules(RBAC.ALLOW, inside.allows, calls),
            rules_stat_prefix=STAT_PREFIX,
            track_per_rule_stats=True,
        )
        found.append(_MARK)
        found.append(HttpFilter(name=ALLOW_FILTER, typed_config=pack(allowing)))
    return tuple(found)


def tcp_rules(calls: MixerCalls) -> tuple[Filter, ...]:
    """Return the filters that close connections."""
    inside, found = calls.inside, []
    for name, action, refusals in (
        (DENY_FILTER, RBAC.DENY, inside.tcp_denies),
        (ALLOW_FILTER, RBAC.ALLOW, inside.tcp_allows),
    ):
        if refusals:
            config = NetworkRbac(stat_prefix=STAT_PREFIX, rules=_rules(action, refusals, calls))
            found.append(Filter(name=name, typed_config=pack(config)))
    return tuple(found)


def gate(calls: MixerCalls) -> tuple[HttpFilter, ...]:
    """Return the filter that finds out whether Mixer has anything to say, if that can be found out."""
    policies = {}
    if calls.closed:
        if calls.closed_when is None:
            return ()  # always
        policies[CLOSED] = _policy(calls.closed_when, vouched=calls.vouched)
    if calls.open:
        if calls.open_when is None and not calls.closed:
            return ()
        policies[OPEN] = _policy(calls.open_when, vouched=calls.vouched)
    if not policies:
        return ()
    config = HttpRbac(shadow_rules=RBAC(action=RBAC.ALLOW, policies=policies), shadow_rules_stat_prefix=_GATE_PREFIX)
    return (HttpFilter(name=GATE_FILTER, typed_config=pack(config)),)


def asked_where(found: str) -> MetadataMatcher:
    """Return where the gate found that one of the `CLOSED` or `OPEN` rules may matter."""
    return MetadataMatcher(
        filter=RBAC_METADATA,
        path=[MetadataMatcher.PathSegment(key=_GATE_PREFIX + _POLICY)],
        value=ValueMatcher(string_match=StringMatcher(exact=found)),
    )


def refusals(calls: MixerCalls) -> Iterator[ResponseMapper]:
    """Yield what makes each refusal say what its rule says."""
    for place, refusal in enumerate(calls.inside.denies):
        details = f"rbac_access_denied_matched_policy[{_policy_name(place, refusal)}]"
        yield reply(f"response.code_details == {json.dumps(details)}", refusal.status, refusal.body, refusal.headers)
    if calls.inside.allows:
        none = 'response.code_details == "rbac_access_denied_matched_policy[none]"'
        yield reply(f"{none} && {marked(ALLOWING, 'yes')}", 403, NOT_ALLOWED, ())


def reply(when: str, status: int, body: str, headers: Sequence[tuple[str, str]]) -> ResponseMapper:
    """Return what makes the answers that `when` holds for say what a rule says."""
    return ResponseMapper(
        filter=cel_filter(when),
        status_code=uint32(status),
        body=DataSource(inline_string=body),
        headers_to_add=[
            HeaderValueOption(
                header=HeaderValue(key=name, value=text.replace("%", "%%")),
                append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for name, text in headers
        ],
    )


def _rules(action: int, refusals: Sequence[Refusal], calls: MixerCalls) -> RBAC:
    return RBAC(
        action=action,
        policies={
            _policy_name(place, refusal): _policy(refusal.condition, vouched=calls.vouched)
            for place, refusal in enumerate(refusals)
        },
    )


def _policy_name(place: int, refusal: Refusal) -> str:
    return f"{place:05d}:{refusal.rule}"


def _policy(condition: Condition | None, *, vouched: bool) -> Policy:
    if condition is None:
        return Policy(permissions=[_ANY_PERMISSION], principals=[_ANY_PRINCIPAL])
    return Policy(
        permissions=[_permission(condition)],
        principals=[_ANY_PRINCIPAL],
        condition=Expr.FromString(condition.tree(vouched=vouched)),
        cel_config=TEXTS,
    )


def _permission(condition: Condition) -> Permission:
    """Return what Envoy looks at first: it costs next to nothing, and an expression a few microseconds."""
    found = [_needed(need) for need in condition.needs]
    if not found:
        return _ANY_PERMISSION
    return found[0] if len(found) == 1 else Permission(and_rules=Permission.Set(rules=found))


def _needed(need: Need) -> Permission:
    match need.kind:
        case "header":
            return Permission(header=HeaderMatcher(name=need.text, present_match=True))
        case "method":
            return Permission(header=HeaderMatcher(name=":method", string_match=StringMatcher(exact=need.text)))
        case "path":
            return Permission(url_path=PathMatcher(path=StringMatcher(exact=need.text)))
    return Permission(url_path=PathMatcher(path=StringMatcher(prefix=need.text)))
