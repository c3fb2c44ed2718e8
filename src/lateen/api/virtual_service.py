"""networking.istio.io VirtualService, as written: how requests for hosts are matched and where they go.

Shapes only; the rules beyond them are in `lateen.api.check_virtual_service`. Meaning and defaults:
docs/api/VirtualService.md.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.scalars import Bytes, Double, Duration, Int32, Mapping, UInt32

__all__ = [
    "CorsPolicy",
    "Delegate",
    "Destination",
    "FaultAbort",
    "FaultDelay",
    "HTTPBody",
    "HTTPDirectResponse",
    "HTTPFaultInjection",
    "HTTPMatchRequest",
    "HTTPMirrorPolicy",
    "HTTPRedirect",
    "HTTPRetry",
    "HTTPRewrite",
    "HTTPRoute",
    "HTTPRouteDestination",
    "HeaderOperations",
    "Headers",
    "L4MatchAttributes",
    "Percent",
    "PortSelector",
    "RegexRewrite",
    "RouteDestination",
    "StringMatch",
    "TCPRoute",
    "TLSMatchAttributes",
    "TLSRoute",
    "VirtualService",
]


class StringMatch(Spec, frozen=True, kw_only=True):
    """How a text must look. Nothing set asks for presence only, where that means something."""

    ONE_OF: ClassVar[OneOf] = (("exact", "prefix", "regex"),)

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None  # RE2, of the whole text


class Percent(Spec, frozen=True, kw_only=True):
    value: Double = 0.0  # 0..100


class PortSelector(Spec, frozen=True, kw_only=True):
    number: UInt32 = 0


class Destination(Spec, frozen=True, kw_only=True):
    """A service, maybe one subset and one port of it."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


class HeaderOperations(Spec, frozen=True, kw_only=True):
    set: Mapping[str, str] = EMPTY  # overwrite
    add: Mapping[str, str] = EMPTY  # append
    remove: tuple[str, ...] = ()


class Headers(Spec, frozen=True, kw_only=True):
    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatchRequest(Spec, frozen=True, kw_only=True):
    """All that is set must hold. `port`, `sourceLabels`, `sourceNamespace`, `gateways` are decided per proxy."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, StringMatch] = EMPTY
    without_headers: Mapping[str, StringMatch] = EMPTY
    query_params: Mapping[str, StringMatch] = EMPTY
    ignore_uri_case: bool = False  # of uri exact and prefix
    port: UInt32 = 0  # 0: any
    source_labels: Mapping[str, str] = EMPTY
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    stat_prefix: str = ""


class HTTPRouteDestination(Spec, frozen=True, kw_only=True):
    destination: Destination | None = None
    weight: Int32 = 0
    headers: Headers | None = None


class RouteDestination(Spec, frozen=True, kw_only=True):
    """Of TLS and TCP routes."""

    destination: Destination | None = None
    weight: Int32 = 0


class HTTPRedirect(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("port", "derive_port"),)

    uri: str = ""  # instead of the whole path
    prefix_rewrite: str = ""  # instead of the matched prefix
    authority: str = ""
    port: UInt32 | None = None
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None
    scheme: str = ""
    redirect_code: UInt32 = 0  # 0: 301


class HTTPBody(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("string", "bytes"),)

    string: str | None = None
    bytes: Bytes | None = None


class HTTPDirectResponse(Spec, frozen=True, kw_only=True):
    status: UInt32
    body: HTTPBody | None = None


class Delegate(Spec, frozen=True, kw_only=True):
    """Another VirtualService, without hosts, whose rules stand here."""

    name: str = ""
    namespace: str = ""  # "": that of the root


class RegexRewrite(Spec, frozen=True, kw_only=True):
    match: str = ""  # RE2
    rewrite: str = ""


class HTTPRewrite(Spec, frozen=True, kw_only=True):
    uri: str = ""  # instead of the matched prefix, or of the path
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Spec, frozen=True, kw_only=True):
    attempts: Int32 = 0  # beside the first one; 0: no retries
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


class FaultDelay(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("fixed_delay", "exponential_delay"),)

    fixed_delay: Duration | None = None
    exponential_delay: Duration | None = None  # refused: nobody implements it
    percentage: Percent | None = None  # absent: nothing happens
    percent: Int32 = 0  # deprecated


class FaultAbort(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("http_status", "grpc_status", "http2_error"),)

    http_status: Int32 | None = None
    grpc_status: str | None = None  # by name
    http2_error: str | None = None  # refused: nobody implements it
    percentage: Percent | None = None


class HTTPFaultInjection(Spec, frozen=True, kw_only=True):
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class HTTPMirrorPolicy(Spec, frozen=True, kw_only=True):
    destination: Destination
    percentage: Percent | None = None  # absent: 100


class CorsPolicy(Spec, frozen=True, kw_only=True):
    allow_origins: tuple[StringMatch, ...] = ()
    allow_origin: tuple[str, ...] = ()  # deprecated; read when allowOrigins is empty
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: Literal["UNSPECIFIED", "FORWARD", "IGNORE"] = "UNSPECIFIED"


class HTTPRoute(Spec, frozen=True, kw_only=True):
    """One rule: what it matches, and one of route, redirect, directResponse, delegate."""

    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = ()  # one of them must hold; (): everything
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirror_percentage: Percent | None = None
    mirror_percent: UInt32 | None = None  # deprecated
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class TLSMatchAttributes(Spec, frozen=True, kw_only=True):
    sni_hosts: tuple[str, ...]
    destination_subnets: tuple[str, ...] = ()
    port: UInt32 = 0
    source_labels: Mapping[str, str] = EMPTY
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


class TLSRoute(Spec, frozen=True, kw_only=True):
    match: tuple[TLSMatchAttributes, ...]
    route: tuple[RouteDestination, ...] = ()


class L4MatchAttributes(Spec, frozen=True, kw_only=True):
    destination_subnets: tuple[str, ...] = ()
    port: UInt32 = 0
    source_labels: Mapping[str, str] = EMPTY
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""
    source_subnet: str = ""  # taken, and never acted on by anybody


class TCPRoute(Spec, frozen=True, kw_only=True):
    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class VirtualService(Spec, frozen=True, kw_only=True):
    hosts: tuple[str, ...] = ()  # () for a delegate
    gateways: tuple[str, ...] = ()  # (): mesh
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()
