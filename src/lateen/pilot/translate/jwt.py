"""What Envoy is told about tokens.

In:  one `RequestAuth`, for listeners, and one `TokenFilterInput`, for the filter that they name.
Out: HTTP filters and an early mutation, none where no token is looked at; the filter's configuration as an extension of
     its own (ECDS), so that keys are replaced under the requests of connections that go on.
Rules: Istio's RequestAuthentication, docs/api/translation.md "Tokens".

Keys that are not there: Envoy takes no issuer without a source of keys, and no key of ours may stand in, since somebody
would hold its private half. So the source named then is one that nobody can be had from: `BlackHoleCluster`, which has
no endpoints. Envoy asks it when a token comes, gets nothing at once, and answers 401.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.config_source_pb2 import ExtensionConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.config.route.v3.route_components_pb2 import RouteMatch
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import (
    JwtAuthentication,
    JwtClaimToHeader,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    JwtRequirementAndList,
    JwtRequirementOrList,
    RemoteJwks,
    RequirementRule,
)
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyMutation,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.empty_pb2 import Empty

from lateen.pilot.model.values_jwt import RequestAuth, TokenFilterInput, TokenIssuer
from lateen.pilot.translate.matches import JWT_FILTER, JWT_PAYLOAD
from lateen.pilot.translate.names import BLACK_HOLE
from lateen.pilot.translate.pack import TYPE_PREFIX, pack
from lateen.pilot.translate.parts import ADS_PATIENT, duration

__all__ = ["JWT_FILTER", "build_jwt_filters", "build_token_filter", "strip_outputs"]

SPACE_DELIMITED: Final = ("permission", "scope")  # RFC 8693, section 4.2, and what Istio takes with it
_NO_KEYS: Final = RemoteJwks(
    http_uri=HttpUri(uri="http://no.keys.invalid/", cluster=BLACK_HOLE, timeout=duration(timedelta(seconds=1)))
)
_ANYTHING: Final = RouteMatch(prefix="/")
_MISSING: Final = JwtRequirement(allow_missing=Empty())
_FILTER: Final = HttpFilter(
    name=JWT_FILTER,
    config_discovery=ExtensionConfigSource(
        config_source=ADS_PATIENT, type_urls=[TYPE_PREFIX + JwtAuthentication.DESCRIPTOR.full_name]
    ),
)


def build_jwt_filters(request_auth: RequestAuth) -> tuple[HttpFilter, ...]:
    """Return the filters for tokens that are in force. Same input, same bytes."""
    return (_FILTER,) if request_auth.enabled else ()


def strip_outputs(request_auth: RequestAuth) -> tuple[TypedExtensionConfig, ...]:
    """Return what takes the headers that tell a token's claims off every request, before anything looks at it.

    Envoy's filter does it as well, but after the route was chosen, and not for requests that it passes over: preflights
    of CORS. A client that sets such a header itself must be believed by nobody on the way; nor by an application that
    takes `x_user` for `x-user`, as CGI has it.
    """
    if not request_auth.outputs:
        return ()
    pattern = "|".join(re.sub("[-_]", "[-_]", re.escape(name).replace("\\-", "-")) for name in request_auth.outputs)
    matcher = StringMatcher(safe_regex=RegexMatcher(regex=pattern))
    mutation = HeaderMutation(remove_on_match=HeaderMutation.RemoveOnMatch(key_matcher=matcher))
    return (
        TypedExtensionConfig(
            name="envoy.http.early_header_mutation.header_mutation",
            typed_config=pack(EarlyMutation(mutations=[mutation])),
        ),
    )


def build_token_filter(inp: TokenFilterInput) -> TypedExtensionConfig:
    """Return the configuration of the filter. Same input, same bytes."""
    names = [f"origins-{i}" for i in range(len(inp.issuers))]
    return TypedExtensionConfig(
        name=JWT_FILTER,
        typed_config=pack(
            JwtAuthentication(
                providers={
                    name: _provider(issuer, gateway=inp.gateway)
                    for name, issuer in zip(names, inp.issuers, strict=True)
                },
                rules=[RequirementRule(match=_ANYTHING, requires=_requirement(names))] if names else (),
                bypass_cors_preflight=True,
            )
        ),
    )


def _provider(issuer: TokenIssuer, *, gateway: bool) -> JwtProvider:
    claims = [*SPACE_DELIMITED, *(name for name in issuer.space_delimited_claims if name not in SPACE_DELIMITED)]
    keys: dict[str, Any] = (
        {"local_jwks": DataSource(inline_string=issuer.keys)} if issuer.keys else {"remote_jwks": _NO_KEYS}
    )
    return JwtProvider(
        issuer=issuer.issuer,
        audiences=issuer.audiences,
        from_headers=[JwtHeader(name=name, value_prefix=prefix) for name, prefix in issuer.from_headers],
        from_params=issuer.from_params,
        from_cookies=issuer.from_cookies,
        forward=issuer.forward,
        forward_payload_header=issuer.payload_header,
        claim_to_headers=[
            JwtClaimToHeader(header_name=header, claim_name=claim) for header, claim in issuer.claim_headers
        ],
        payload_in_metadata=JWT_PAYLOAD,
        normalize_payload_in_metadata=JwtProvider.NormalizePayload(space_delimited_claims=claims),
        clear_route_cache=gateway,
        **keys,
    )


def _requirement(names: Sequence[str]) -> JwtRequirement:
    """Return what a request must bring: no token, or one that is good for somebody.

    With several issuers "no token" is "each of them finds its own token good, or finds none": a token that nobody
    takes is refused, whoever else could have been asked.
    """
    if len(names) == 1:
        return _any([_of(names[0]), _MISSING])
    each = JwtRequirement(
        requires_all=JwtRequirementAndList(requirements=[_any([_of(name), _MISSING]) for name in names])
    )
    return _any([*(_of(name) for name in names), each])


def _of(name: str) -> JwtRequirement:
    return JwtRequirement(provider_name=name)


def _any(requirements: Iterable[JwtRequirement]) -> JwtRequirement:
    return JwtRequirement(requires_any=JwtRequirementOrList(requirements=requirements))
