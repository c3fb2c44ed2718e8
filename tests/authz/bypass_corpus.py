"""Ways to name what a policy keeps from everybody so that the policy might not notice.

Each `Attack` is one request, as HTTP/1.1 bytes or as HTTP/2 fields, that some server somewhere takes for one of
`/admin/secret.txt` (`by` "path") or of `http://admin.test/secret.txt` (`by` "host"). Assurance 24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["H1", "H2", "Attack"]

Pairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Attack:
    """One request: bytes of HTTP/1, or fields of HTTP/2."""

    by: str  # what it is after: "path" or "host"
    raw: bytes = b""
    fields: Pairs = ()

    @property
    def shown(self) -> str:
        return repr(self.raw or self.fields)


PATHS: Final = (
    # slashes
    b"/admin/secret.txt",
    b"//admin/secret.txt",
    b"///admin///secret.txt",
    b"/admin//secret.txt",
    b"/%2fadmin/secret.txt",
    b"/%2Fadmin/secret.txt",
    b"/admin%2fsecret.txt",
    b"/admin%2Fsecret.txt",
    b"/admin/%2fsecret.txt",
    b"/admin/secret.txt/",
    # dots
    b"/./admin/secret.txt",
    b"/.//admin/secret.txt",
    b"/admin/./secret.txt",
    b"/../admin/secret.txt",
    b"/public/../admin/secret.txt",
    b"/public/./../admin/secret.txt",
    b"/public//../admin/secret.txt",
    b"/public//../../admin/secret.txt",
    b"/public/../../../admin/secret.txt",
    b"/public/x/..//..//admin/secret.txt",
    b"/public/admin/../../admin/secret.txt",
    b"/admin/../admin/secret.txt",
    b"/admin/secret.txt/.",
    b"/admin/x/../secret.txt",
    b"/public/...//admin/secret.txt",
    b"/admin./secret.txt",
    b"/admin/secret.txt.",
    # encoded dots, slashes, letters
    b"/%2e/admin/secret.txt",
    b"/%2E%2E/admin/secret.txt",
    b"/public/%2e%2e/admin/secret.txt",
    b"/public/%2E%2e/admin/secret.txt",
    b"/public/.%2e/admin/secret.txt",
    b"/public/%2e./admin/secret.txt",
    b"/public/..%2fadmin/secret.txt",
    b"/public/..%2Fadmin%2Fsecret.txt",
    b"/public%2f..%2fadmin/secret.txt",
    b"/public/%2e%2e%2fadmin/secret.txt",
    b"/public/x%2f..%2f..%2fadmin/secret.txt",
    b"/public%2f%2e%2e%2fadmin%2fsecret.txt",
    b"/%61dmin/secret.txt",
    b"/%61%64%6d%69%6e/secret.txt",
    b"/%61%64%6D%69%6E%2F%73ecret.txt",
    b"/admi%6e/secret.txt",
    b"/admin/%73ecret.txt",
    b"/admin/secret%2etxt",
    # encoded twice
    b"/%2561dmin/secret.txt",
    b"/public/%252e%252e/admin/secret.txt",
    b"/public/..%252fadmin/secret.txt",
    b"/public/%25%32%65%25%32%65/admin/secret.txt",
    # backslashes
    b"/\\admin/secret.txt",
    b"/public\\..\\admin\\secret.txt",
    b"/public/..\\admin/secret.txt",
    b"/public/..\\/admin/secret.txt",
    b"/%5cadmin/secret.txt",
    b"/public/..%5cadmin/secret.txt",
    b"/public%5c..%5cadmin%5csecret.txt",
    b"/public/..%5C/admin/secret.txt",
    # parameters
    b"/admin;/secret.txt",
    b"/admin;a=b/secret.txt",
    b"/;/admin/secret.txt",
    b"/.;/admin/secret.txt",
    b"/public;/../admin/secret.txt",
    b"/public/..;/admin/secret.txt",
    b"/public/..;x=y/admin/secret.txt",
    b"/public/%2e%2e;/admin/secret.txt",
    b"/public/..%3b/admin/secret.txt",
    b"/admin/secret.txt;x",
    # queries and fragments
    b"/admin/secret.txt?",
    b"/admin/secret.txt?/public/page.txt",
    b"/admin/secret.txt?x=/../../public",
    b"/public/../admin/secret.txt?/public/",
    b"/admin/secret.txt#",
    b"/admin/secret.txt#/public/",
    b"/public/#/../../admin/secret.txt",
    b"/public/?/../../admin/secret.txt",
    b"/admin/secret.txt%23",
    b"/admin/secret.txt%3f",
    b"/public/%23/../../admin/secret.txt",
    b"/public/%3f/../../admin/secret.txt",
    # control characters and blanks
    b"/admin/secret.txt%00",
    b"/admin/secret.txt\x00",
    b"/admin\x00/secret.txt",
    b"/public/\x00/../../admin/secret.txt",
    b"/public/%00/../../admin/secret.txt",
    b"/admin/secret.txt%0a",
    b"/admin/secret.txt%0d%0a",
    b"/\x0badmin/secret.txt",
    b"/\x7f/../admin/secret.txt",
    b"/\tadmin/secret.txt",
    b"/ /../admin/secret.txt",
    b"/%09/../admin/secret.txt",
    b"/%20/../admin/secret.txt",
    b"/admin%20/secret.txt",
    b"/admin/secret.txt%20",
    b"\t/admin/secret.txt",
    b" /admin/secret.txt",
    # case
    b"/ADMIN/secret.txt",
    b"/Admin/Secret.txt",
    b"/%41dmin/secret.txt",
    # other encodings
    b"/%c0%afadmin/secret.txt",
    b"/\xc0\xafadmin/secret.txt",
    b"/public/%c0%ae%c0%ae/admin/secret.txt",
    b"/public/\xc0\xae\xc0\xae/admin/secret.txt",
    b"/public/..%c0%afadmin/secret.txt",
    b"/public/%e0%80%ae%e0%80%ae/admin/secret.txt",
    b"/public/%f0%80%80%ae./admin/secret.txt",
    b"/public/%uff0e%uff0e/admin/secret.txt",
    b"/public/..%u2215admin/secret.txt",
    b"/public/\xef\xbc\x8e\xef\xbc\x8e/admin/secret.txt",
    b"/%ef%bd%81dmin/secret.txt",
    b"/\xc3\xbc/../admin/secret.txt",
    b"/%C3%BC/../admin/secret.txt",
    # broken encodings
    b"/admin/secret.txt%",
    b"/%/../admin/secret.txt",
    b"/public/%zz/../../admin/secret.txt",
    b"/public/%2/../../admin/secret.txt",
    # characters that some escape
    b"/*/../admin/secret.txt",
    b"/public/{x}/../../admin/secret.txt",
    b'/public/"|^`<>/../../admin/secret.txt',
    b"/~/../admin/secret.txt",
    b"/public/+/../../admin/secret.txt",
    # absolute form, and what looks like it
    b"http://public.test/admin/secret.txt",
    b"http://public.test//admin/secret.txt",
    b"http://public.test/public/../admin/secret.txt",
    b"http://public.test/public/..%2fadmin/secret.txt",
    b"HTTP://PUBLIC.TEST/admin/secret.txt",
    b"http://public.test:80/%61dmin/secret.txt",
    b"https://public.test/admin/secret.txt",
    b"http://user:word@public.test/admin/secret.txt",
    b"http://public.test\\admin/secret.txt",
    b"http://public.test?/admin/secret.txt",
    b"http:/admin/secret.txt",
    b"http:///admin/secret.txt",
    b"//public.test/admin/secret.txt",
    b"admin/secret.txt",
    b"?/admin/secret.txt",
    b"",
)
METHODS: Final = (
    b"get",
    b"Get",
    b"HEAD",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"PROPFIND",
    b"FOO",
    b"GET\t",
    b"\r\nGET",
    b"GET ",
)
VERSIONS: Final = (b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"")
OTHER_HEADERS: Final = (
    b"x-original-url: /admin/secret.txt",
    b"x-rewrite-url: /admin/secret.txt",
    b"x-envoy-original-path: /admin/secret.txt",
    b"x-http-method-override: GET",
    b"x-forwarded-host: admin.test",
    b"x-forwarded-for: 127.0.0.1",
    b"x-envoy-internal: true",
    b"x_forwarded_host: admin.test",
    b"x-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/admin",
    b"connection: close, host",
    b"connection: x-forwarded-for",
    b"transfer-encoding : identity",
)

HOSTS: Final = (
    b"admin.test",
    b"ADMIN.test",
    b"Admin.Test",
    b"admin.test:80",
    b"admin.test:8001",
    b"admin.test:",
    b"admin.test:0",
    b"admin.test:00080",
    b"admin.test:99999",
    b"admin.test:x",
    b"admin.test.",
    b"ADMIN.TEST.",
    b"admin.test.:80",
    b"admin.test..",
    b" admin.test",
    b"\tadmin.test\t ",
    b"public.test@admin.test",
    b"admin.test@public.test",
    b"admin.test,public.test",
    b"public.test,admin.test",
    b"public.test, admin.test",
    b"admin.test public.test",
    b"admin.test/",
    b"admin.test/public.test",
    b"admin.test\\",
    b"admin.test#",
    b"admin.test?public.test",
    b"admin%2etest",
    b"%61dmin.test",
    b"admin.test%2e",
    b"admin.test%00",
    b"admin.test\x00",
    b"public.test\x00admin.test",
    b"admin.test\x00.public.test",
    b"admin.test\x0b",
    b"admin_test",
    b"admin.test;",
    b"[admin.test]",
    b"admin.test:80:80",
    b"\xef\xbd\x81dmin.test",
    b"xn--admin.test",
)


def _h1(
    target: bytes = b"/secret.txt",
    *lines: bytes,
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
    by: str = "host",
) -> Attack:
    return Attack(by, b"\r\n".join((b" ".join((method, target, version)), *lines, b"connection: close", b"", b"")))


_PUBLIC: Final = b"host: public.test"
_ADMIN: Final = b"host: admin.test"
_SECRET: Final = b"/admin/secret.txt"

H1: Final = (
    *(_h1(path, _PUBLIC, by="path") for path in PATHS),
    *(_h1(_SECRET, _PUBLIC, method=method, by="path") for method in METHODS),
    *(_h1(_SECRET, _PUBLIC, version=version, by="path") for version in VERSIONS),
    _h1(_SECRET, version=b"HTTP/1.0", by="path"),
    Attack("path", b"GET /admin/secret.txt\r\n"),
    Attack("path", b"GET /admin/secret.txt HTTP/1.1\nhost: public.test\nconnection: close\n\n"),
    *(_h1(b"/public/page.txt", _PUBLIC, line, by="path") for line in OTHER_HEADERS),
    *(_h1(_SECRET, _PUBLIC, line, by="path") for line in OTHER_HEADERS),
    *(_h1(b"/secret.txt", b"host:" + host) for host in HOSTS),
    *(_h1(b"/secret.txt", b"host: " + host, version=b"HTTP/1.0") for host in HOSTS),
    # two hosts
    _h1(b"/secret.txt", _PUBLIC, _ADMIN),
    _h1(b"/secret.txt", _ADMIN, _PUBLIC),
    _h1(b"/secret.txt", _ADMIN, _ADMIN),
    _h1(b"/secret.txt", b"Host: public.test", b"hOST: admin.test"),
    _h1(b"/secret.txt", _PUBLIC, b"host : admin.test"),
    _h1(b"/secret.txt", b"host : admin.test"),
    _h1(b"/secret.txt", b" host: admin.test", _PUBLIC),
    _h1(b"/secret.txt", _PUBLIC, b" host: admin.test"),
    _h1(b"/secret.txt", b"host:", b" admin.test"),
    _h1(b"/secret.txt", b"\x0bhost: admin.test", _PUBLIC),
    _h1(b"/secret.txt", b"x: y\rhost: admin.test", _PUBLIC),
    _h1(b"/secret.txt", b"x: y\nhost: admin.test", _PUBLIC),
    _h1(b"/secret.txt", b"host: public.test\rhost: admin.test"),
    _h1(b"/secret.txt", b"host: public.test\nhost: admin.test"),
    _h1(b"/secret.txt", b"x-forwarded-host: admin.test", _PUBLIC),
    _h1(b"/secret.txt", b"forwarded: host=admin.test", _PUBLIC),
    _h1(b"/secret.txt", b":authority: admin.test", _PUBLIC),
    # a host in the target
    _h1(b"http://admin.test/secret.txt", _PUBLIC),
    _h1(b"http://ADMIN.test./secret.txt", _PUBLIC),
    _h1(b"http://admin.test:80/secret.txt", _PUBLIC),
    _h1(b"HTTPS://admin.test/secret.txt", _PUBLIC),
    _h1(b"http://admin.test/secret.txt"),
    _h1(b"http://admin.test/secret.txt", b"host:"),
    _h1(b"http://public.test/secret.txt", _ADMIN),
    _h1(b"http://public.test@admin.test/secret.txt", _PUBLIC),
    _h1(b"http://public.test:80@admin.test/secret.txt", _PUBLIC),
    _h1(b"http://admin.test@public.test/secret.txt", _ADMIN),
    _h1(b"http://admin.test\\@public.test/secret.txt", _PUBLIC),
    _h1(b"http://public.test#@admin.test/secret.txt", _PUBLIC),
    _h1(b"http://public.test?@admin.test/secret.txt", _PUBLIC),
    _h1(b"//admin.test/secret.txt", _PUBLIC),
    _h1(b"http://admin.test/secret.txt", _PUBLIC, version=b"HTTP/1.0"),
)


def _h2(path: bytes, authority: bytes | None, *more: tuple[bytes, bytes], method: bytes = b"GET", by: str) -> Attack:
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", path)]
    if authority is not None:
        fields.append((b":authority", authority))
    return Attack(by, fields=(*fields, *more))


_NEXT: Final = b" HTTP/1.1\r\nhost: public.test\r\n\r\nGET /admin/secret.txt"

H2: Final = (
    *(_h2(path, b"public.test", by="path") for path in PATHS),
    *(_h2(_SECRET, b"public.test", method=method, by="path") for method in METHODS),
    _h2(b"/public/page.txt" + _NEXT, b"public.test", by="path"),
    _h2(b"/public/page.txt", b"public.test", method=b"GET /admin/secret.txt HTTP/1.1\r\nx: ", by="path"),
    _h2(b"/public/page.txt", b"public.test", method=b"GET /admin/secret.txt?", by="path"),
    _h2(b"/public/page.txt", b"public.test\r\nx: y" + _NEXT, by="path"),
    _h2(b"/public/page.txt", b"public.test", (b"x", b"y\r\n\r\nGET /admin/secret.txt HTTP/1.1\r\nhost: a"), by="path"),
    _h2(b"/public/page.txt", b"public.test", (b"x: y\r\n\r\nGET /admin/secret.txt", b"z"), by="path"),
    _h2(b"/public/page.txt", b"public.test", (b":path", _SECRET), by="path"),
    _h2(_SECRET, b"public.test", (b":path", b"/public/page.txt"), by="path"),
    _h2(b"/public/page.txt", b"public.test", (b"x-envoy-original-path", _SECRET), by="path"),
    _h2(b"*", b"public.test", by="path"),
    *(_h2(b"/secret.txt", host, by="host") for host in HOSTS),
    _h2(b"/secret.txt", b"public.test", (b"host", b"admin.test"), by="host"),
    _h2(b"/secret.txt", b"admin.test", (b"host", b"public.test"), by="host"),
    _h2(b"/secret.txt", None, (b"host", b"admin.test"), by="host"),
    _h2(b"/secret.txt", b"", (b"host", b"admin.test"), by="host"),
    _h2(b"/secret.txt", b"public.test", (b"Host", b"admin.test"), by="host"),
    _h2(b"/secret.txt", b"public.test", (b":authority", b"admin.test"), by="host"),
    _h2(b"/secret.txt", b"admin.test", (b":authority", b"public.test"), by="host"),
    _h2(b"/secret.txt", None, (b"host", b"public.test"), (b"host", b"admin.test"), by="host"),
    _h2(b"http://admin.test/secret.txt", b"public.test", by="host"),
    _h2(b"//admin.test/secret.txt", b"public.test", by="host"),
    _h2(b"@admin.test/secret.txt", b"public.test", by="host"),
    Attack(
        "host",
        fields=(
            (b":method", b"GET"),
            (b":scheme", b"http://admin.test/secret.txt?"),
            (b":path", b"/"),
            (b":authority", b"public.test"),
        ),
    ),
)
