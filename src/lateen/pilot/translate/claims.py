"""Headers in which a client could pass for somebody else: thrown away where the mesh begins.

A request from outside (at a gateway, or at a sidecar over a connection without mutual TLS) keeps none of the headers
that proxies of a mesh write for each other and for applications: `x-envoy-*`, `x-lateen-*`, `x-istio-*`. They go before
anything else looks at the request; what Envoy itself says there comes after. Envoy's own rules do the rest for
`x-forwarded-client-cert` and, at gateways, `x-forwarded-for` and `x-forwarded-proto`.

Servers that follow CGI take `x_forwarded_for` for `x-forwarded-for`, and no proxy does: so a spelling with underscores
would bring an application what the rules above took away. It goes as well, wherever it comes from.
"""

from __future__ import annotations

from typing import Final

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyMutation,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from lateen.pilot.translate.pack import pack

__all__ = ["STRIP_CLAIMS", "STRIP_DISGUISES"]

# Names arrive in lower case; the pattern holds for the whole name.
_DISGUISED: Final = r"x[-_](envoy|lateen|istio|forwarded)[a-z0-9_-]*_[a-z0-9_-]*|x_(envoy|lateen|istio|forwarded).*"
_CLAIMED: Final = r"x[-_](envoy|lateen|istio)[-_].*"


def _strip(pattern: str) -> TypedExtensionConfig:
    matcher = StringMatcher(safe_regex=RegexMatcher(regex=pattern))
    mutation = HeaderMutation(remove_on_match=HeaderMutation.RemoveOnMatch(key_matcher=matcher))
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(EarlyMutation(mutations=[mutation])),
    )


STRIP_CLAIMS: Final = _strip(f"{_CLAIMED}|{_DISGUISED}")
STRIP_DISGUISES: Final = _strip(_DISGUISED)  # of a client whose own proxy speaks for it
