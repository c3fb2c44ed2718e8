"""Random AuthorizationPolicies and random requests that have something to do with each other.

`draw_policies(rng)` gives documents as YAML has them; `draw_client(rng)` and `with_request` a `Shot`, which says how a
client asks and, as a `lateen.authz.Request`, what that is. Values of policies are made from values of requests (the
same, a part with a `*`, one character changed), so that rules match about as often as not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from tests.fakes.tokens import sign

from lateen.authz import Connection, HttpRequest, Request

MESH, ALIAS, STRANGE = "cluster.local", "old.domain", "partner.test"  # the third is let in, and is no alias
TRUST_DOMAINS = (MESH, ALIAS)

# What certificates say. SPIFFE would not allow some of these; an authority that signs anything may make them.
IDENTITIES = {
    "web": f"spiffe://{MESH}/ns/default/sa/web",
    "web.v1": f"spiffe://{MESH}/ns/default/sa/web.v1",
    "webxv1": f"spiffe://{MESH}/ns/default/sa/webxv1",
    "ops": f"spiffe://{MESH}/ns/ops-a/sa/auditor",
    "old": f"spiffe://{ALIAS}/ns/default/sa/web",
    "partner": f"spiffe://{STRANGE}/ns/default/sa/web",
    "star": f"spiffe://{MESH}/ns/de*/sa/w*",
    "class": f"spiffe://{MESH}/ns/[a-z]/sa/w[e]b",
    "group": f"spiffe://{MESH}/ns/default/sa/(web)+|x",
    "deep": f"spiffe://{MESH}/x/ns/default/y/sa/web/z",
    "twice": f"spiffe://{MESH}/ns/ops-a/ns/default/sa/web",
    "short": f"spiffe://{MESH}/ns/default",
}
SNIS = ("", "", "api.test", "api-test", "outbound_.80_._.api.default.svc.cluster.local", "web.api.test")
SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.130")
CLAIMED = ("10.77.0.9", "10.77.1.9", "192.0.2.7", "2001:db8::7")
FORWARDED = ("", "", "", "198.51.100.3", "192.0.2.9, 10.77.0.9", "2001:db8::1")
METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH")
HOSTS = (
    "api",
    "API",
    "api.default.svc.cluster.local",
    "api.default.svc.cluster.local:8001",
    "Api.Default:8001",
    "api.",
    "api.:80",
    "apixdefault",
    "api.default",
    "[2001:db8::1]:80",
    "10.77.0.10",
    "a_b.test",
    "user@api",
    "",
    "api:x",
)
PATHS = (
    "/",
    "/admin",
    "/admin/",
    "/admin/x",
    "/Admin",
    "/admin?x=/public",
    "/administrator",
    "/public/a.txt",
    "/public/axtxt",
    "/public?/admin",
    "/a/b/c",
    "/a//b",
    "//admin",
    "/admin//",
    "/a/../admin",
    "/a/./b",
    "/public/../admin/x",
    "/public/..;/admin",
    "/%61dmin",
    "/%41dmin",
    "/public/%2e%2e/admin",
    "/public%2f..%2fadmin",
    "/admin%2fx",
    "/admin%2Fx",
    "/admin%5cx",
    "/admin\\x",
    "/public\\..\\admin",
    "/admin;a=b",
    "/admin;a=b/x;c",
    "/admin;a;b/x",
    "/public/%2e%2e;/admin",
    "/public/.%2e;x/admin",
    "/;/admin",
    "/;x",
    "/a;b/c",
    "/a*b",
    "/*",
    "/a/*",
    "/{x}",
    "/a+b/[c]",
    "/%5Bx%5D",
    "/a%20b",
    "/%C3%BC",
    "/a%",
    "/a%zz",
    "/a%252f",
    "/~u",
    "/%7eu",
    "/shop.Cart/Add",
    "/v1/books/7/entries/9",
    "/v1/books//entries/9",
    "/v1/books/7/entries/",
    "/v1/books/7/entries",
    '/a"b',
    "/a|b",
    "/$&'(),:@=!",
)
SEGMENTS = (
    "a",
    "admin",
    "public",
    "",
    "..",
    ".",
    "%2e%2e",
    "b%2fc",
    "A",
    "x;y",
    "..;",
    "7",
    "a.b",
    "a-b_c~",
    "*",
    "%61",
)
ROLES = (
    "admin",
    "\xfc,admin",
    "admin \xff",
    "\xc3\xbc",
    "\xc3\xbcser",
    "user",
    "",
    "admin,user",
    "user, admin",
    "adm*n",
    "Admin",
    "adm.n",
    "a b",
    "superadmin",
)
HEADER_NAMES = ("x-role", "X-Role", "x-other", "x_role")


PATH = re.compile(r"/[!\"$-~]*")  # what is not refused before any policy is asked
HOST = re.compile(r"[A-Za-z0-9._:@-]*")
PATH_ENDS = ("x", "/", "/x", ";x", "?x", "istrator", "%2f", "//", "/..", ".")
H2_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?")
HOST_ENDS = ("x", ".", ":80", ":8001", ".:80", ":", ":x", ".test")

# The key that signs, of which one is known, and the claims.
TOKENS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ec", {"iss": "https://login.test", "sub": "ann", "aud": "shop", "azp": "app", "scope": "read write"}),
    ("ec", {"iss": "https://login.test/eu", "sub": "ann", "aud": ["shop", "ads"], "groups": ["staff", "a*b"]}),
    ("ec", {"iss": "https://login-test", "sub": "bob", "permission": "read", "org": {"team": "red", "level": 3}}),
    ("ec", {"iss": "issuer@test", "sub": "a/b", "azp": ["app", "x"], "org": {"team": ["red", "blue", 7]}}),
    ("ec", {"iss": "*", "sub": "*", "aud": "*", "groups": "staff", "org": "red"}),
    ("ec", {"iss": "https://login.test", "aud": [], "groups": [["staff"]], "admin": True, "words": "read write"}),
    ("ec", {"sub": "ann", "groups": {"staff": "yes"}, "scope": ["read", "write"], "words": ""}),
    ("ec", {"iss": "", "sub": "", "azp": "\xfc\u65e5", "groups": ["\xfc"], "org": {"team": {"name": "red"}}}),
    ("ec-unknown", {"iss": "https://login.test", "sub": "ann", "aud": "shop"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request and all that a client needs to make it."""

    request: Request
    identity: str | None  # key of IDENTITIES
    source: str
    claimed: str
    h2: bool = False  # over HTTP/2

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Return the request as HTTP/2 has it."""
        http = self.request.http
        assert http is not None
        pseudo = ((":method", http.method), (":scheme", "http"), (":path", http.path), (":authority", http.authority))
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (*pseudo, *http.headers)]

    def bytes(self) -> bytes:
        """Return the request as HTTP/1.1 has it."""
        http = self.request.http
        assert http is not None
        lines = [f"{http.method} {http.path} HTTP/1.1", f"host: {http.authority}"]
        lines += [f"{name}: {value}" for name, value in http.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


# ---------------------------------------------------------------- requests


def draw_client(rng: Random, *, port: int) -> Shot:
    """Draw one connection to a workload's `port`, without a request on it."""
    identity = rng.choice([None, None, *IDENTITIES])
    source, claimed = rng.choice(SOURCES), rng.choice(CLAIMED)
    connection = Connection(
        source_ip=source,
        remote_ip=claimed,
        peer=IDENTITIES[identity] if identity is not None else None,
        sni=rng.choice(SNIS) if identity is not None else "",
        destination_ip="2001:db8::10" if ":" in claimed else rng.choice(("10.77.0.10", "10.77.0.11")),
        destination_port=port,
    )
    h2 = rng.random() < 0.25
    return Shot(request=Request(connection=connection), identity=identity, source=source, claimed=claimed, h2=h2)


def with_request(shot: Shot, http: HttpRequest) -> Shot:
    """Return the shot with an HTTP request on its connection."""
    if shot.h2 and not H2_HOST.fullmatch(http.authority):
        http = replace(http, authority="api")  # HTTP/2 has no place for a user, or for no host
    forwarded = next((value for name, value in http.headers if name == "x-forwarded-for"), "")
    # A sidecar believes the last address of the header: whoever is in front of it has put it there.
    remote_ip = forwarded.rpartition(",")[2].strip() or shot.claimed
    connection = replace(shot.request.connection, remote_ip=remote_ip)
    return replace(shot, request=replace(shot.request, connection=connection, http=http))


def draw_http(rng: Random, *, near: Nearby, tokens: bool = False) -> HttpRequest:
    """Draw a request, which is often near to what policies ask for; with `tokens` they are checked where it goes."""
    headers = [(rng.choice(HEADER_NAMES), rng.choice(ROLES)) for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))]
    if forwarded := rng.choice(FORWARDED):
        headers.append(("x-forwarded-for", forwarded))
    if rng.random() < 0.5:
        headers.append(("x-verdict", "yes"))
    token: dict[str, Any] = {}
    if rng.random() < 0.7:
        key, claims = rng.choice(TOKENS)
        headers.append(("authorization", f"Bearer {_token(TOKENS.index((key, claims)))}"))
        if tokens:
            token = {"token": "valid", "claims": claims} if key == "ec" else {"token": "invalid"}
    return HttpRequest(
        method=rng.choice(METHODS),
        authority=rng.choice(near.hosts) if near.hosts and rng.random() < 0.5 else rng.choice(HOSTS),
        path=rng.choice(near.paths) if near.paths and rng.random() < 0.5 else draw_path(rng),
        headers=tuple(headers),
        **token,
    )


@dataclass(frozen=True, slots=True)
class Nearby:
    """Paths and hosts that policies name, or nearly so."""

    paths: tuple[str, ...]
    hosts: tuple[str, ...]


def nearby(rng: Random, documents: list[dict[str, Any]]) -> Nearby:
    """Return what requests may be to be near to what these policies ask for."""
    operations = [
        entry["operation"]
        for document in documents
        for rule in document["spec"]["rules"]
        for entry in rule.get("to", ())
    ]

    def written(*fields: str) -> list[str]:
        return [value for operation in operations for field in fields for value in operation.get(field, ())]

    paths = [path for value in written("paths", "notPaths") for path in _near(rng, value, PATH_ENDS)]
    hosts = [host for value in written("hosts", "notHosts") for host in _near(rng, value, HOST_ENDS)]
    return Nearby(
        tuple(
            path for path in (path if path.startswith("/") else f"/{path}" for path in paths) if PATH.fullmatch(path)
        ),
        tuple(host for host in hosts if HOST.fullmatch(host)),
    )


def _near(rng: Random, value: str, ends: Sequence[str]) -> list[str]:
    """Return texts that `value` may match and others that it should not, though little is missing."""
    text = value.replace("{**}", rng.choice(("", "a", "a/b"))).replace("{*}", rng.choice(("", "a", "a*b")))
    bare = text.removeprefix("*") if text.startswith("*") else text.removesuffix("*")
    at = rng.randint(0, max(len(bare) - 1, 0))
    return [
        bare,
        text,
        bare + rng.choice(ends),
        rng.choice(("x", "/", "a.")) + bare,
        bare[:-1],
        bare.swapcase(),
        bare[:at] + rng.choice("x.-") + bare[at + 1 :],
    ]


@cache
def _token(index: int) -> str:
    return sign(TOKENS[index][1], key=TOKENS[index][0])


def draw_path(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(PATHS)
    path = "/" + "/".join(rng.choice(SEGMENTS) for _ in range(rng.randint(1, 5)))
    return path + rng.choice(("", "", "?", "?a=/../b", "/"))


# ---------------------------------------------------------------- policies

Draw = Callable[[Random], str]


def draw_narrow_policy(rng: Random, number: int) -> list[dict[str, Any]]:
    """Draw one policy that asks about one thing, which `number` chooses; so nothing else decides."""
    sources = [name for field in SOURCE_FIELDS for name in (field, _negative(field))]
    operations = [name for field in OPERATIONS for name in (field, _negative(field))]
    at = number % (len(sources) + len(operations) + len(CONDITIONS))
    if at < len(sources):
        rule = {"from": [{"source": {sources[at]: _draw_values(rng, list(SOURCE_FIELDS.values())[at // 2])}}]}
    elif (at := at - len(sources)) < len(operations):
        rule = {"to": [{"operation": {operations[at]: _draw_values(rng, list(OPERATIONS.values())[at // 2])}}]}
    else:
        rule = {"when": [_draw_condition(rng, [CONDITIONS[at - len(operations)]])]}
    return [_document({"name": "narrow", "namespace": "default"}, rng.choice(("ALLOW", "DENY")), [rule])]


def draw_policies(rng: Random) -> list[dict[str, Any]]:
    """Draw the policies of one workload, as documents."""
    documents = []
    for number in range(rng.choice((1, 1, 1, 2, 2, 3))):
        action = rng.choice(("ALLOW", "ALLOW", "ALLOW", "ALLOW", "DENY", "DENY", "DENY", "AUDIT", "CUSTOM"))
        rules = [_draw_rule(rng, asking=action == "CUSTOM") for _ in range(rng.choice((1, 1, 2, 3)))]
        if action == "ALLOW" and rng.random() < 0.05:
            rules = []
        metadata: dict[str, Any] = {
            "name": rng.choice((f"p{number}", f"p.{number}", f"p{number}-x")),
            "namespace": rng.choice(("default", "default", "istio-system")),
        }
        if action in ("ALLOW", "DENY") and rng.random() < 0.05:
            metadata["annotations"] = {"istio.io/dry-run": rng.choice(("true", "false", "1"))}
        documents.append(_document(metadata, action, rules, **_provider(rng, action)))
    return documents


def _document(metadata: dict[str, Any], action: str, rules: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": {"action": action, "rules": rules, **more},
    }


def _negative(field: str) -> str:
    return f"not{field[0].upper()}{field[1:]}"


def _provider(rng: Random, action: str) -> dict[str, Any]:
    names = ("asker", "asker", "web-asker", "nobody")
    return {"provider": {"name": rng.choice(names)}} if action == "CUSTOM" else {}


def _draw_rule(rng: Random, *, asking: bool) -> dict[str, Any]:
    """Draw one rule. `asking`: of a CUSTOM policy, which is looked at before anybody's identity is."""
    rule: dict[str, Any] = {}
    if rng.random() < 0.55:
        rule["from"] = [{"source": _draw_source(rng, asking)} for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.55:
        rule["to"] = [{"operation": _draw_fields(rng, OPERATIONS)} for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.45:
        conditions = ANYBODYS_CONDITIONS if asking else CONDITIONS
        rule["when"] = [_draw_condition(rng, conditions) for _ in range(rng.choice((1, 1, 2)))]
    return rule


def _draw_source(rng: Random, asking: bool) -> dict[str, Any]:
    if asking:
        return _draw_fields(rng, {name: draw for name, draw in SOURCE_FIELDS.items() if name.endswith("pBlocks")})
    source = _draw_fields(rng, SOURCE_FIELDS)
    if "serviceAccounts" in source or "notServiceAccounts" in source:  # AP-11
        for name in ("principals", "notPrincipals", "namespaces", "notNamespaces"):
            source.pop(name, None)
    return source


def _draw_fields(rng: Random, fields: dict[str, Draw]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in rng.sample(sorted(fields), min(len(fields), rng.choice((1, 1, 1, 2)))):
        for key in rng.choice(((name,), (_negative(name),), (name, _negative(name)))):
            found[key] = _draw_values(rng, fields[name])
    return found


def _draw_condition(rng: Random, conditions: Sequence[tuple[str, Draw]]) -> dict[str, Any]:
    key, draw = rng.choice(conditions)
    condition: dict[str, Any] = {"key": key}
    for name in rng.choice((("values",), ("values",), ("notValues",), ("values", "notValues"))):
        condition[name] = _draw_values(rng, draw)
    return condition


def _draw_values(rng: Random, draw: Draw) -> list[str]:
    return [draw(rng) for _ in range(rng.choice((1, 1, 2, 3)))]


def cut(rng: Random, text: str) -> str:
    """Return `text` as a pattern: itself, with a `*` at an end or in the middle, or nearly itself."""
    kind = rng.random()
    at = rng.randint(0, len(text))
    if kind < 0.4:
        return text
    if kind < 0.6:
        return text[:at] + "*"
    if kind < 0.8:
        return "*" + text[at:]
    if kind < 0.85:
        return "*"
    if kind < 0.9:
        return f"*{text[at:]}*"
    if kind < 0.95:
        return text[:at] + "*" + text[at + 1 :]
    return text[:at] + rng.choice(".x[*") + text[at + 1 :]


def _path(rng: Random) -> str:
    path = draw_path(rng).partition("?")[0]
    if rng.random() < 0.15:
        return rng.choice(
            (
                "/v1/books/{*}/entries/{**}",
                "/{*}",
                "/{**}",
                "/admin/{**}",
                "/{*}/{*}",
                "/a/{**}/",
                "/public/{*}",
                "/v1/{**}/entries/9",
                "/{*}/b/{**}",
            )
        )
    return cut(rng, path.replace("{", "(").replace("}", ")"))  # braces are templates


def _principal(rng: Random) -> str:
    return cut(rng, rng.choice(list(IDENTITIES.values())).removeprefix("spiffe://"))


def _namespace(rng: Random) -> str:
    return cut(rng, rng.choice(("default", "ops-a", "de*", "[a-z]", "d.fault", "x")))


def _account(rng: Random) -> str:
    accounts = ("web", "web.v1", "default/web", "default/web.v1", "ops-a/auditor", "default/w.b", "[a-z]/w[e]b")
    return rng.choice((*accounts, "default/(web)+|x", "z", "auditor"))


def _domain(rng: Random) -> str:
    return rng.choice((MESH, ALIAS, STRANGE, "*", "*.local", "cluster*", "*.test", "c*", "cluster.loca", "*r.local"))


def _block(*addresses: str) -> Draw:
    def draw(rng: Random) -> str:
        address = rng.choice(addresses)
        widths = (None, 32, 48, 128, 0) if ":" in address else (None, None, 32, 31, 25, 24, 8, 0)
        width = rng.choice(widths)
        return address if width is None else f"{address}/{width}"

    return draw


def _port(rng: Random) -> str:
    return rng.choice(("8001", "8002", "8080", "80", "0", "65535"))


def _text(*texts: str) -> Draw:
    # Values beyond ASCII are the bytes of UTF-8 in a request, if they are that, and text in a policy.
    known = [text.encode("latin-1").decode(errors="ignore") for text in texts]
    return lambda rng: cut(rng, rng.choice([text for text in known if text]))


def _claim(*texts: str) -> Draw:
    return lambda rng: cut(rng, rng.choice(texts))


def _request_principal(rng: Random) -> str:
    claims = rng.choice(TOKENS)[1]
    issuer, subject = claims.get("iss", "x"), claims.get("sub", "y")
    fixed = ("*", f"{issuer}/*", f"*/{subject}", f"{issuer}/{subject}", f"*{issuer[-6:]}/{subject}", "ann")
    return rng.choice(fixed) if rng.random() < 0.6 else cut(rng, f"{issuer}/{subject}") or "*"


SOURCE_FIELDS: dict[str, Draw] = {
    "principals": _principal,
    "requestPrincipals": _request_principal,
    "namespaces": _namespace,
    "serviceAccounts": _account,
    "trustDomains": _domain,
    "ipBlocks": _block(*SOURCES),
    "remoteIpBlocks": _block(*CLAIMED, "198.51.100.3", "2001:db8::1"),
}
OPERATIONS: dict[str, Draw] = {
    "hosts": _text(*HOSTS),
    "ports": _port,
    "methods": _text(*METHODS),
    "paths": _path,
}
ANYBODYS_CONDITIONS: tuple[tuple[str, Draw], ...] = (
    ("request.headers[x-role]", _text(*ROLES)),
    ("request.headers[x-role]", _text("admin", "user", "\xc3\xbc")),
    ("request.headers[X-Role]", _text(*ROLES)),
    ("request.headers[x-none]", _text(*ROLES)),
    ("source.ip", _block(*SOURCES)),
    ("remote.ip", _block(*CLAIMED, "198.51.100.3")),
    ("destination.ip", _block("10.77.0.10", "10.77.0.11", "2001:db8::10")),
    ("destination.port", _port),
    ("connection.sni", _text(*SNIS)),
)
CONDITIONS: tuple[tuple[str, Draw], ...] = (
    *ANYBODYS_CONDITIONS,
    ("source.namespace", _namespace),
    ("source.serviceAccount", _account),
    ("source.principal", _principal),
    ("source.trustDomain", _domain),
    ("request.auth.principal", _request_principal),
    ("request.auth.audiences", _claim("shop", "ads", "*")),
    ("request.auth.presenter", _claim("app", "x", "\xfc\u65e5")),
    ("request.auth.claims[scope]", _claim("read", "write", "read write")),
    ("request.auth.claims[permission]", _claim("read")),
    ("request.auth.claims[words]", _claim("read", "read write")),
    ("request.auth.claims[groups]", _claim("staff", "a*b", "\xfc")),
    ("request.auth.claims[groups][staff]", _claim("yes")),
    ("request.auth.claims[org]", _claim("red")),
    ("request.auth.claims[org][team]", _claim("red", "blue", "7")),
    ("request.auth.claims[org][level]", _claim("3")),
    ("request.auth.claims[admin]", _claim("true")),
    ("request.auth.claims[iss]", _claim("https://login.test")),
)
