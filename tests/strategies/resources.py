"""Random resources of the API, as YAML would spell them: from the typed structs, so that a new field takes part.

`resource(kinds)` gives one as plain values. Texts are mostly sensible (a host that exists, a regular expression that
parses) and sometimes odd (empty, spaces, other scripts, percent signs, quotes); numbers and durations like their
bounds. What the checks refuse is for the caller to mend (`mend.py`) or to pass over. Everything refers to the same few
names (`mesh.py` runs them), so that resources meet each other.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from lateen.api.base import Spec
from lateen.api.kinds import kind_info
from lateen.api.scalars import DurationRule
from lateen.api.shape import struct_fields

DEPTH = 6  # of structs in structs, from which on optional ones are left away
NAMESPACES = ("default", "default", "default", "other", "istio-system")
SERVICES = ("web", "web.default.svc.cluster.local", "db.default.svc.cluster.local", "api.other.svc.cluster.local")
OUTSIDE = ("www.example.com", "*.example.com", "203.0.113.9", "nowhere.default.svc.cluster.local")
PORTS = (80, 443, 8080, 9080, 3306, 27017, 15001, 1, 65535)
PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "HTTP2", "TCP", "TLS", "MONGO", "REDIS", "MYSQL", "GRPC-WEB", "UDP", "http", "")
LABELS = ("app", "version", "istio", "topology.kubernetes.io/region")
LABEL_VALUES = ("web", "db", "v1", "v2", "gateway", "")
ADDRESSES = ("10.1.2.3", "240.240.7.7", "192.0.2.0/24", "2001:db8::1", "2001:db8::/32", "0.0.0.0/0", "10.1.2.4/32")
REGEXES = (
    ".*",
    "/v[0-9]+/.*",
    "(?i)abc",
    "a|b",
    "^/x$",
    "[a-z]{1,3}",
    "(.*)/(.+)",
    "\\d+",
    "",
    "a{1,1000}",
    "(a{1,50}){1,20}",
    "(?P<name>x)",
    "(?s).",
    "\\pL",
    "[[:alpha:]]",
    "\\bx\\b",
    "x*?",
    "*",
    "(?:é|ü)+",
)
ODD = (
    "",
    " ",
    "a b",
    "ü",
    "日本",
    "%",
    "%%",
    "%PROTOCOL%",
    "%REQ(x)%",
    "a,b",
    "a;b",
    "*",
    "/",
    "\t",
    "a\nb",
    "\x7f",
    '"',
    "~",
    "x" * 300,
)
ODD_DURATIONS = ("0s", "1ms", "5ms", "500ms", "1s", "15s", "1m", "1h", "24h", "8760h", "100000h", "2562047h")
CIPHERS = (
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES128-SHA",
    "ALL",
    "-ALL",
    "!x",
    "NOPE",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
)
HEADERS = (
    "x-user",
    "X-Team",
    "cookie",
    "host",
    "Host",
    ":authority",
    ":path",
    ":method",
    "content-length",
    "authorization",
    "a" * 70,
)

Plain = dict[str, Any]


def one_of(*texts: str | int) -> st.SearchStrategy[Any]:
    return st.sampled_from(texts)


def mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Any]:
    """Return `usual` nine times in ten."""
    other = odd if odd is not None else st.sampled_from(ODD)
    return st.integers(0, 9).flatmap(lambda n: other if n == 9 else usual)


def few(entry: st.SearchStrategy[Any], most: int = 3, least: int = 0) -> st.SearchStrategy[list[Any]]:
    return st.lists(entry, min_size=least, max_size=most)


def some(entry: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return few(entry, most, 1)


HOST = mostly(
    st.sampled_from(SERVICES) | st.sampled_from(SERVICES + OUTSIDE),
    one_of("*", "WEB", "web.", "Web.Default.svc.cluster.local", "xn--nxasmq6b.com", "a"),
)
LABEL_MAP = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(LABEL_VALUES), max_size=2)
GATEWAYS = st.sampled_from([[], ["mesh"], ["mesh", "default/edge"], ["edge"], ["default/edge", "other/edge"]])
PORT = mostly(st.sampled_from(PORTS), one_of(0, 65536, 70000))
REGEX = mostly(st.sampled_from(REGEXES))
PATH = mostly(one_of("/", "/a", "/a/b", "/api/v1/", "/x?y=1", "/a%20b", "a", "/{id}", "/*/x", "/**"))
HEADER_VALUE = mostly(
    one_of(
        "v",
        "%PROTOCOL%",
        "%DOWNSTREAM_REMOTE_ADDRESS%",
        "%REQ(x-user)%",
        "%REQ(x?y):5%",
        "%START_TIME(%s)%",
        "100%%",
        "a b",
    )
    | one_of(
        '%UPSTREAM_METADATA(["a","b"])%', "%DYNAMIC_METADATA(a:b)%", "%CEL(request.path)%", "%NOPE%", "%RESPONSE_CODE%"
    )
    | one_of(
        "%ENVIRONMENT(HOME)%",
        "%FILTER_STATE(x:PLAIN)%",
        "%DURATION%",
        "%HOSTNAME%",
        "%TRAILER(x)%",
        "%GRPC_STATUS(CAMEL_STRING)%",
    )
    | one_of(
        "%START_TIME%",
        "%REQ()%",
        "%CONNECTION_ID%",
        "%ROUTE_NAME%",
        "%PER_REQUEST_STATE(x)%",
        "%DOWNSTREAM_PEER_URI_SAN%",
    )
)
EXPORT_TO = st.sampled_from([[], [], ["*"], ["."], ["other"]])
FILE = mostly(one_of("/etc/certs/cert.pem", "/etc/certs/key.pem", "/x", "system"), one_of("", "relative.pem"))
CREDENTIAL = one_of("", "web-cert", "kubernetes://web-cert", "configmap://default/x", "sds://x")
SUBSET = one_of("", "v1", "v2", "none")
SANS = few(mostly(one_of("spiffe://cluster.local/ns/default/sa/web", "*.example.com", "web")), 2)
LOCALITY = mostly(one_of("r1/z1/s1", "r1/z1/*", "r1/*", "r2", "*", "r1/z2", ""))
PERCENT = mostly(st.sampled_from([0, 1, 50, 99, 100, 0.0001, 33.3, 0.001, 99.9999]), st.sampled_from([-1, 100.1, 1e-9]))

# What a field holds, by its name in the struct; by (struct, name) where that differs.
FIELDS: Mapping[str | tuple[str, str], st.SearchStrategy[Any]] = {
    "host": HOST,
    "hosts": some(HOST),
    ("Server", "hosts"): some(
        mostly(
            one_of(
                "*",
                "www.example.com",
                "*.example.com",
                "./x.example.com",
                "*/*",
                "default/*.com",
                "web.default.svc.cluster.local",
            )
        )
    ),
    ("IstioEgressListener", "hosts"): some(
        mostly(one_of("*/*", "./*", "default/*", "~/*", "other/api.other.svc.cluster.local", "*/www.example.com"))
    ),
    "gateways": GATEWAYS,
    "export_to": EXPORT_TO,
    "subset": SUBSET,
    ("Subset", "name"): one_of("v1", "v2", "V-1", "a.b"),
    "labels": LABEL_MAP,
    "match_labels": LABEL_MAP,
    "source_labels": LABEL_MAP,
    "selector": LABEL_MAP,
    ("Gateway", "selector"): st.sampled_from([{"istio": "gateway"}, {}, {"app": "web"}]),
    "source_namespace": one_of("", "default", "other"),
    "namespace": one_of("", "default", "other"),
    "port": PORT,
    "number": PORT,
    ("PortSelector", "number"): PORT,
    "target_port": one_of(0, 0, 8080, 9090),
    ("Port", "target_port"): one_of(0, 0, 0, 8080),
    "protocol": mostly(st.sampled_from(PROTOCOLS)),
    ("TunnelSettings", "protocol"): one_of("", "CONNECT", "POST"),
    ("Port", "name"): one_of("http", "https", "tcp", "a", "b", "c"),
    ("ServicePort", "name"): one_of("http", "https", "tcp-db", "a", "b", "c", "grpc-x"),
    ("SidecarPort", "name"): one_of("http", "https", "tcp", "a"),
    "regex": REGEX,
    ("RegexRewrite", "match"): REGEX,
    ("RegexRewrite", "rewrite"): mostly(one_of("/\\1", "x", "/\\0", "\\9", "\\\\", "\\", "/a\\1b\\2")),
    ("StringMatch", "prefix"): PATH,
    ("StringMatch", "exact"): PATH,
    "uri": mostly(PATH),
    ("HTTPMatchRequest", "uri"): st.none(),  # replaced below: a struct
    "prefix_rewrite": one_of("", "/", "/new"),
    "authority": one_of("", "www.example.com", "x:80", "a b"),
    "scheme": one_of("", "http", "https"),
    "retry_on": mostly(
        st.lists(
            one_of("5xx", "connect-failure", "503", "retriable-headers", "unavailable", "reset", "429"), max_size=3
        ).map(",".join)
    ),
    "grpc_status": one_of("UNAVAILABLE", "OK", "NOT_FOUND", "nope"),
    "http_status": one_of(200, 404, 503, 599, 600, 199),
    ("HTTPDirectResponse", "status"): one_of(200, 204, 404, 503, 599, 600, 100),
    ("HTTPRedirect", "redirect_code"): one_of(0, 301, 302, 303, 307, 308, 300, 304, 399),
    ("HTTPRedirect", "port"): PORT,
    "set": st.dictionaries(mostly(st.sampled_from(HEADERS)), HEADER_VALUE, max_size=2),
    "add": st.dictionaries(mostly(st.sampled_from(HEADERS)), HEADER_VALUE, max_size=2),
    "remove": few(mostly(st.sampled_from(HEADERS)), 2),
    "allow_methods": few(one_of("GET", "POST", "*", "DELETE"), 2),
    "allow_headers": few(mostly(st.sampled_from(HEADERS)), 2),
    "expose_headers": few(mostly(st.sampled_from(HEADERS)), 2),
    "allow_origin": few(mostly(one_of("*", "https://example.com")), 2),
    "http_header_name": mostly(st.sampled_from(HEADERS)),
    "http_query_parameter_name": mostly(one_of("q", "user")),
    ("HTTPCookie", "name"): mostly(one_of("session", "a")),
    ("HTTPCookie", "path"): one_of("", "/", "/a", "a b"),
    ("CookieAttribute", "name"): mostly(one_of("SameSite", "Secure", "a")),
    ("MagLev", "table_size"): one_of(1021, 65537, 5000011, 2, 4, 4999999),
    "minimum_ring_size": one_of(0, 1, 1024, 8388608, 8388609, 2**40),
    "percent": one_of(0, 10, 100, 101),
    "mirror_percent": one_of(0, 10, 100, 101),
    "value": PERCENT,
    ("CookieAttribute", "value"): mostly(one_of("Lax", "")),
    "weight": one_of(0, 1, 50, 100, 2**31 - 1, 10),
    "max_ejection_percent": one_of(0, 10, 100),
    "min_health_percent": one_of(0, 50, 100),
    ("HTTPRetry", "attempts"): one_of(0, 1, 3, 2**31 - 1),
    "minimum_percent": st.sampled_from([None, 0, 10, 100, 0.5]),
    "aggression": st.sampled_from([None, 0.1, 1, 2.5, 1e9, 1e-9]),
    "client_certificate": FILE,
    "private_key": FILE,
    "server_certificate": FILE,
    "ca_certificates": FILE,
    "ca_crl": one_of("", "/etc/certs/crl.pem"),
    "credential_name": CREDENTIAL,
    "credential_names": few(CREDENTIAL, 2),
    "ca_cert_credential_name": one_of("", "", "ca"),
    "subject_alt_names": SANS,
    "sni": mostly(one_of("", "www.example.com", "web.default.svc.cluster.local"), one_of("x" * 300, "a b")),
    "sni_hosts": some(mostly(one_of("www.example.com", "*.example.com", "*", "db.default.svc.cluster.local"))),
    "destination_subnets": few(st.sampled_from(ADDRESSES), 2),
    "source_subnet": one_of("", "10.0.0.0/8", "192.0.2.7"),
    "addresses": few(st.sampled_from(ADDRESSES), 2),
    "address": mostly(one_of("10.9.8.7", "10.9.8.6", "2001:db8::7", "vm.example.com", "unix:///run/x.sock", "")),
    ("WorkloadEntry", "ports"): st.dictionaries(one_of("http", "https", "a"), one_of(8080, 9090), max_size=1),
    "locality": LOCALITY,
    "network": one_of("", "", "", "n1"),
    "service_account": one_of("", "web"),
    ("LocalityLoadBalancerSetting", "failover_priority"): few(
        one_of("topology.kubernetes.io/region", "app", "app=web"), 2
    ),
    "from_": LOCALITY,
    ("Failover", "to"): one_of("r1", "r2"),
    ("Distribute", "to"): st.sampled_from([{"r1/*": 100}, {"r1/z1/*": 80, "r2/*": 20}, {"*": 100}, {"r1": 50}]),
    "bind": mostly(one_of("", "", "", "0.0.0.0", "127.0.0.1", "10.77.0.2", "::"), one_of("unix:///run/x.sock", "x")),
    "default_endpoint": mostly(one_of("127.0.0.1:8080", "0.0.0.0:8080", "unix:///run/app.sock", "127.0.0.1:0")),
    ("Server", "default_endpoint"): st.just(""),
    "cipher_suites": few(st.sampled_from(CIPHERS), 2),
    "target_host": one_of("proxy.example.com", "10.9.9.9"),
    "stat_prefix": mostly(one_of("", "a")),
    ("HTTPRoute", "name"): mostly(one_of("", "first", "a.b")),
    "port_level_mtls": st.dictionaries(
        st.sampled_from(["80", "8080", "9080"]),
        st.sampled_from([{"mode": "STRICT"}, {"mode": "DISABLE"}, {}]),
        max_size=2,
    ),
    ("Delegate", "name"): one_of("delegate", "none"),
    "verify_certificate_spki": few(one_of("x", "NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A="), 1),
    "verify_certificate_hash": few(one_of("x", "a" * 64), 1),
    "outlier_detection_http_error_codes": few(one_of(500, 503, 404), 2),
    "consecutive_errors": one_of(0, 0, 5),
    "issuer": mostly(one_of("https://a.example.com", "https://b.example.com/x", "a")),
    "jwks": mostly(
        one_of(
            '{"keys": [{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", '
            '"y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}',
            '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}',
            '{"keys": []}',
            '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}',
            '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RS256", "kid": "x"}]}',
        )
    ),
    "jwks_uri": mostly(one_of("https://a.example.com/jwks", "http://127.0.0.1/", "https://a.example.com:8443/j?k=v")),
    ("JWTHeader", "name"): mostly(st.sampled_from(HEADERS)),
    ("JWTHeader", "prefix"): mostly(one_of("", "Bearer ", "x")),
    ("ClaimToHeader", "header"): mostly(st.sampled_from(HEADERS)),
    "claim": mostly(one_of("sub", "a.b", "groups")),
    "output_payload_to_header": mostly(one_of("", "x-payload", "a.b")),
    "audiences": few(mostly(one_of("a", "b.c")), 2),
    "from_params": few(mostly(one_of("token", "t")), 2),
    "from_cookies": few(mostly(one_of("session", "t")), 2),
    "space_delimited_claims": few(mostly(one_of("roles", "scope")), 2),
    "query_params": st.none(),
}
del FIELDS["query_params"], FIELDS["HTTPMatchRequest", "uri"]  # type: ignore[attr-defined]  # maps and structs of matches
KEYED = {
    "headers": mostly(st.sampled_from(HEADERS)),
    "without_headers": mostly(st.sampled_from(HEADERS)),
    "query_params": mostly(one_of("q", "user")),
}
WEIGHTS_SUM = frozenset({"HTTPRouteDestination", "RouteDestination"})
# How often a field that may be missing is there, in tenths; what shapes most is drawn more often.
OFTEN = {
    "http": 9,
    "route": 9,
    "match": 5,
    "hosts": 10,
    "host": 10,
    "traffic_policy": 8,
    "subsets": 6,
    "servers": 10,
    "ports": 9,
}
OFTEN |= {
    "destination": 10,
    "port": 6,
    "egress": 7,
    "ingress": 5,
    "resolution": 8,
    "location": 5,
    "selector": 4,
    "mtls": 8,
    "number": 10,
}
OFTEN |= {
    "protocol": 10,
    "name": 8,
    "tls": 3,
    "redirect": 1,
    "direct_response": 1,
    "delegate": 1,
    "rewrite": 2,
    "duration": 10,
}
OFTEN |= {
    "percentage": 6,
    "fixed_delay": 10,
    "exponential_delay": 0,
    "http2_error": 0,
    "interval": 8,
    "timeout": 8,
    "address": 9,
}
OFTEN |= {
    "default_endpoint": 8,
    "from_": 10,
    "to": 10,
    "target_host": 10,
    "client_certificate": 5,
    "private_key": 5,
    "port_level_settings": 2,
}
OFTEN |= {
    "network": 1,
    "credential_names": 1,
    "tls_certificates": 1,
    "mirror": 2,
    "mirrors": 1,
    "mirror_percent": 1,
    "endpoints": 6,
    "exact": 10,
    "jwt_rules": 10,
    "issuer": 9,
    "jwks": 7,
    "target_refs": 1,
    "target_ref": 1,
}
LEAST = {"http": 1, "route": 1, "servers": 1, "allow_origins": 1}
ABSENT = object()


@st.composite
def struct(draw: st.DrawFn, kind: type[Spec], depth: int = 0) -> Plain:
    """Return one struct as YAML spells it; of each group of alternatives at most one."""
    fields = struct_fields(kind)
    banned: set[str] = set()
    for group in kind.ONE_OF:
        chosen = draw(st.sampled_from(group))
        banned.update(name for name in group if name != chosen)
    made: Plain = {}
    for field in fields:
        if field.name in banned:
            continue
        often = OFTEN.get(field.name, 3)
        if not field.required and draw(st.integers(0, 9)) >= often:
            continue
        value = draw(value_of(kind.__name__, field.name, field.type, depth))
        if value is not ABSENT and value is not None:
            made[field.encode_name] = value
    return made


def value_of(owner: str, name: str, tp: Any, depth: int) -> st.SearchStrategy[Any]:
    """Return what one field may hold."""
    special = FIELDS.get((owner, name))
    if special is None and not _is_struct(tp):
        special = FIELDS.get(name)
    return special if special is not None else _typed(owner, name, tp, depth, ())


def _is_struct(tp: Any) -> bool:
    members = [tp, *get_args(tp)]
    return any(isinstance(member, type) and issubclass(member, Spec) for member in members) or any(
        _is_struct(inner) for inner in get_args(tp) if get_origin(inner) is not None
    )


@cache
def _typed(owner: str, name: str, tp: Any, depth: int, meta: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    origin = get_origin(tp)
    if origin is Annotated:
        inner, *more = get_args(tp)
        return _typed(owner, name, inner, depth, (*meta, *more))
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(tp) if member is not type(None)]
        return st.one_of(*(_typed(owner, name, member, depth, meta) for member in members))
    if origin is Literal:
        return st.sampled_from(get_args(tp))
    if origin is tuple:
        inner = get_args(tp)[0]
        if depth >= DEPTH:
            return st.just(ABSENT)
        entries = few(_typed(owner, name, inner, depth, ()), 2, LEAST.get(name, 0))
        return entries.map(_hundred) if _name_of(inner) in WEIGHTS_SUM else entries
    if origin is not None and issubclass(origin, Mapping):
        key, entry = get_args(tp)
        keys = KEYED.get(name, st.integers(1, 65535).map(str) if key is int else mostly(one_of("a", "b")))
        return st.dictionaries(keys, _typed(owner, name, entry, depth, ()), max_size=2)
    if tp is str:
        return mostly(one_of("a", "b.c"))
    if tp is bool:
        return st.booleans()
    if tp is int or tp is float:
        low = max((entry.ge for entry in meta if isinstance(entry, msgspec.Meta) and entry.ge is not None), default=0)
        high = min(
            (entry.le for entry in meta if isinstance(entry, msgspec.Meta) and entry.le is not None), default=2**31
        )
        usual = [
            number for number in (0, 1, 2, 10, 100, 1024, 65536, 2**31 - 1, 2**32 - 1, high) if low <= number <= high
        ]
        return st.sampled_from(usual)
    if tp is bytes:
        return st.sampled_from(["", "aGk=", "/w=="])
    if tp is timedelta:
        free = any(isinstance(entry, DurationRule) and entry.free for entry in meta)
        return st.sampled_from(ODD_DURATIONS if free else ODD_DURATIONS[1:])
    if isinstance(tp, type) and issubclass(tp, Spec):
        return st.just(ABSENT) if depth >= DEPTH else st.deferred(lambda: struct(tp, depth + 1))
    return st.just(ABSENT)


def _name_of(tp: Any) -> str:
    return tp.__name__ if isinstance(tp, type) else ""


def _hundred(entries: list[Any]) -> list[Any]:
    """Make weights sum to something: one destination needs none, and all zero would be refused."""
    if len(entries) > 1 and all(not entry.get("weight") for entry in entries):
        entries[0]["weight"] = 1
    return entries


KINDS = (
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "ServiceEntry",
    "Sidecar",
    "WorkloadEntry",
    "PeerAuthentication",
    "RequestAuthentication",
)


@st.composite
def resource(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> Plain:
    """Return one resource of one of these kinds."""
    kind = draw(st.sampled_from(kinds))
    info = kind_info(kind)
    assert info is not None
    name = draw(one_of("edge", "other-edge") if kind == "Gateway" else one_of("one", "two", "delegate"))
    metadata: Plain = {"name": name, "namespace": draw(st.sampled_from(NAMESPACES))}
    return {
        "apiVersion": f"{info.group}/{info.versions[0]}",
        "kind": kind,
        "metadata": metadata,
        "spec": draw(struct(info.spec)),
    }
