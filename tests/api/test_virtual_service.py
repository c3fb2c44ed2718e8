"""VirtualService: the rules beyond its shape, by the ids of docs/api/VirtualService.md."""

from __future__ import annotations

import pytest
from tests.fakes.judging import faults

SNI = "outbound_.80_.v1_.a.b.svc.cluster.local"
ROUTE = "route: [{destination: {host: a}}]"


def http(rule: str, *, hosts: str = "[a]", gateways: str = "") -> str:
    """One http rule; what it does not say of route is a plain destination."""
    extra = f"gateways: {gateways}\n" if gateways else ""
    return f"hosts: {hosts}\n{extra}http:\n- {{{rule}}}"


def routed(rule: str) -> str:
    return http(f"{ROUTE}, {rule}")


H = "spec.http[0]"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param(
            f"gateways: [g]\nhttp: [{{{ROUTE}}}]", "spec.hosts", "is required where there is gateways", id="VS-01"
        ),
        pytest.param(f"tcp: [{{{ROUTE}}}]", "spec.hosts", "is required where there is tcp", id="VS-03"),
        pytest.param("hosts: [a]", "spec", "must have http, tls or tcp", id="VS-04"),
        pytest.param(http(ROUTE, hosts='["a_b"]'), "spec.hosts[0]", 'got "a_b"', id="VS-05"),
        pytest.param(
            http(ROUTE, hosts='["outbound_.80_._.a.b"]'), "spec.hosts[0]", "must be a host name", id="VS-05-sni-in-mesh"
        ),
        pytest.param(http(ROUTE, hosts='["*"]'), "spec.hosts[0]", '"*" is for gateways only', id="VS-06"),
        pytest.param(
            http(ROUTE, hosts="['*']", gateways="[g, mesh]"),
            "spec.hosts[0]",
            '"*" is for gateways only',
            id="VS-06-mesh",
        ),
        pytest.param(http(ROUTE, hosts="[a.b, '*.b']"), "spec.hosts[0]", 'got "a.b" and "*.b"', id="VS-07"),
        pytest.param(http(ROUTE, hosts="[a.b, A.b]"), "spec.hosts[1]", 'got "A.b" and "a.b"', id="VS-07-case"),
        pytest.param(
            routed("match: [{headers: {'@request.auth.claims.sub': {exact: a}}}]"),
            f"{H}.match[0].headers[@request.auth.claims.sub]",
            "at gateways only",
            id="VS-08",
        ),
        pytest.param(
            http(ROUTE, gateways="[ns/]"),
            "spec.gateways[0]",
            'must be namespace/name, both DNS labels, got "ns/"',
            id="VS-09",
        ),
        pytest.param(http(ROUTE, gateways="[a_b]"), "spec.gateways[0]", "must be a Gateway as in name", id="VS-10"),
        pytest.param(http("delegate: {name: d}, redirect: {uri: /a}"), f"{H}.redirect", "beside delegate", id="VS-13"),
        pytest.param(http(f"delegate: {{name: d}}, {ROUTE}"), f"{H}.route", "beside delegate", id="VS-14"),
        pytest.param("http: [{delegate: {name: d}}]", f"{H}.delegate", "a delegate must not delegate", id="VS-15"),
        pytest.param(http("delegate: {}"), f"{H}.delegate.name", "is required", id="delegate-nameless"),
        pytest.param(routed("redirect: {uri: /a}"), f"{H}.route", "must not stand beside redirect", id="VS-16"),
        pytest.param(
            http("redirect: {uri: /a}, rewrite: {uri: /b}"), f"{H}.rewrite", "beside redirect", id="VS-16-rewrite"
        ),
        pytest.param(routed("directResponse: {status: 200}"), f"{H}.route", "beside directResponse", id="VS-17"),
        pytest.param(http("name: a"), H, "must have one of route, redirect", id="VS-18"),
        pytest.param(
            routed("mirror: {host: b}, mirrors: [{destination: {host: c}}]"),
            f"{H}.mirrors",
            "beside mirror",
            id="VS-19",
        ),
        *(
            pytest.param(
                http(f"{ROUTE}, match: [{{headers: {{'@request.auth.claims{half}': {{}}}}}}]", gateways="[g]"),
                f"{H}.match[0].headers[@request.auth.claims{half}]",
                "must be @request.auth.claims.a.b or",
                id=f"VS-20 {half}",
            )
            for half in (".", "[]", "..a", ".a[b]", "[a]b", ".a.")
        ),
        pytest.param(
            routed("match: [{headers: {'a b': {}}}]"), f"{H}.match[0].headers[a b]", "name of a header", id="VS-20"
        ),
        pytest.param(
            routed("match: [{headers: {'': {}}}]"), f"{H}.match[0].headers[]", "name of a header", id="VS-20-empty"
        ),
        pytest.param(
            routed("match: [{headers: {a: {prefix: ''}}}]"),
            f"{H}.match[0].headers.a.prefix",
            "must not be empty",
            id="VS-21",
        ),
        pytest.param(
            routed("match: [{method: {prefix: ''}}]"),
            f"{H}.match[0].method.prefix",
            "must not be empty",
            id="VS-21-method",
        ),
        pytest.param(
            routed("match: [{uri: {regex: '('}}]"), f"{H}.match[0].uri.regex", 'has a "(" without ")"', id="VS-22"
        ),
        pytest.param(
            routed("match: [{uri: {regex: ''}}]"), f"{H}.match[0].uri.regex", "got empty text", id="VS-22-empty"
        ),
        pytest.param(
            routed("match: [{headers: {a: {regex: '*'}}}]"),
            f"{H}.match[0].headers.a.regex",
            "nothing to repeat",
            id="VS-22-star",
        ),
        pytest.param(
            routed(f"match: [{{uri: {{regex: {'a' * 1025}}}}}]"),
            f"{H}.match[0].uri.regex",
            "at most 1024 characters",
            id="VS-22-long",
        ),
        pytest.param(routed("match: [{port: 65536}]"), f"{H}.match[0].port", "from 1 to 65535, got 65536", id="VS-23"),
        pytest.param(
            routed("match: [{sourceLabels: {a: 'b c'}}]"), f"{H}.match[0].sourceLabels.a", 'got "b c"', id="VS-24"
        ),
        pytest.param(
            routed("match: [{gateways: [a/b/c]}]"), f"{H}.match[0].gateways[0]", "both DNS labels", id="VS-25"
        ),
        pytest.param(
            routed("match: [{sourceNamespace: a.b}]"),
            f"{H}.match[0].sourceNamespace",
            "must be a namespace",
            id="VS-26",
        ),
        pytest.param(
            routed("headers: {request: {set: {':path': a}}}"),
            f"{H}.headers.request.set[:path]",
            "must be a header",
            id="VS-27",
        ),
        pytest.param(
            routed("headers: {request: {remove: [host]}}"),
            f"{H}.headers.request.remove[0]",
            "other than the host",
            id="VS-28",
        ),
        pytest.param(
            routed("headers: {response: {add: {':status': a}}}"),
            f"{H}.headers.response.add[:status]",
            "other than the host",
            id="VS-28-response",
        ),
        pytest.param(
            routed('headers: {request: {set: {a: "b\\r\\nc: d"}}}'),
            f"{H}.headers.request.set.a",
            "control characters, got 0x0d at 1",
            id="VS-29",
        ),
        pytest.param(
            routed("headers: {request: {set: {a: '50%'}}}"),
            f"{H}.headers.request.set.a",
            "begins no operator",
            id="VS-30-lone",
        ),
        pytest.param(
            routed("headers: {request: {set: {a: '%REQ(b'}}}"),
            f"{H}.headers.request.set.a",
            'without ")"',
            id="VS-30-open",
        ),
        pytest.param(
            routed("headers: {request: {set: {a: '%START_TIME b'}}}"),
            f"{H}.headers.request.set.a",
            "no other one ends",
            id="VS-30-unterminated",
        ),
        pytest.param(
            routed("headers: {request: {set: {a: '%UPSTREAM_METADATA([b])%'}}}"),
            f"{H}.headers.request.set.a",
            "list of texts",
            id="VS-30-list",
        ),
        pytest.param(
            http("route: [{destination: {host: a}, headers: {request: {set: {a: '%'}}}}]"),
            f"{H}.route[0].headers.request.set.a",
            "begins no operator",
            id="VS-30-destination",
        ),
        pytest.param(
            routed("rewrite: {authority: b}, headers: {request: {set: {Host: c}}}"),
            f"{H}.headers.request.set.Host",
            "written more than once: rewrite.authority, headers.request.set.Host",
            id="VS-31",
        ),
        pytest.param(
            routed("corsPolicy: {allowOrigins: [{}]}"),
            f"{H}.corsPolicy.allowOrigins[0]",
            "must set exact, prefix or regex",
            id="VS-32",
        ),
        pytest.param(
            routed("corsPolicy: {allowOrigins: [{regex: '['}]}"),
            f"{H}.corsPolicy.allowOrigins[0].regex",
            'without "]"',
            id="VS-32-regex",
        ),
        pytest.param(
            routed("corsPolicy: {allowMethods: [get]}"), f"{H}.corsPolicy.allowMethods[0]", 'got "get"', id="VS-33"
        ),
        pytest.param(
            routed("corsPolicy: {exposeHeaders: ['a b']}"),
            f"{H}.corsPolicy.exposeHeaders[0]",
            "name of a header",
            id="VS-34",
        ),
        pytest.param(
            routed("corsPolicy: {maxAge: 1500ms}"), f"{H}.corsPolicy.maxAge", "whole seconds, got 1500ms", id="VS-35"
        ),
        pytest.param(routed("fault: {}"), f"{H}.fault", "must have delay or abort", id="VS-36"),
        pytest.param(
            routed("fault: {abort: {httpStatus: 500, percentage: {value: 101}}}"),
            f"{H}.fault.abort.percentage.value",
            "got 101",
            id="VS-37",
        ),
        pytest.param(
            routed("fault: {abort: {httpStatus: 500, percentage: {value: 0.00001}}}"),
            f"{H}.fault.abort.percentage.value",
            "at least 0.0001",
            id="VS-37-least",
        ),
        pytest.param(routed("fault: {abort: {httpStatus: 100}}"), f"{H}.fault.abort.httpStatus", "got 100", id="VS-38"),
        pytest.param(
            routed("fault: {abort: {httpStatus: 600}}"), f"{H}.fault.abort.httpStatus", "got 600", id="VS-38-most"
        ),
        pytest.param(
            routed("fault: {abort: {grpcStatus: UNAVAILBLE}}"),
            f"{H}.fault.abort.grpcStatus",
            "did you mean UNAVAILABLE?",
            id="VS-39",
        ),
        pytest.param(
            routed("fault: {abort: {http2Error: a}}"), f"{H}.fault.abort.http2Error", "is not implemented", id="VS-40"
        ),
        pytest.param(
            routed("fault: {delay: {exponentialDelay: 1s}}"),
            f"{H}.fault.delay.exponentialDelay",
            "is not implemented",
            id="VS-43",
        ),
        pytest.param(
            routed("mirror: {host: b}, mirrorPercentage: {value: -1}"),
            f"{H}.mirrorPercentage.value",
            "got -1",
            id="VS-46",
        ),
        pytest.param(
            routed("mirrors: [{destination: {host: b}, percentage: {value: 200}}]"),
            f"{H}.mirrors[0].percentage.value",
            "got 200",
            id="VS-46-mirrors",
        ),
        pytest.param(
            http("route: [{destination: {host: '*'}}]"), f"{H}.route[0].destination.host", 'got "*"', id="VS-48"
        ),
        pytest.param(routed("mirror: {host: a_b}"), f"{H}.mirror.host", 'got "a_b"', id="VS-48-mirror"),
        pytest.param(
            http("route: [{destination: {host: a, subset: v_1}}]"),
            f"{H}.route[0].destination.subset",
            'got "v_1"',
            id="VS-49",
        ),
        pytest.param(
            http("route: [{destination: {host: a, port: {number: 0}}}]"),
            f"{H}.route[0].destination.port.number",
            "got 0",
            id="VS-50",
        ),
        pytest.param(http("route: [{weight: 1}]"), f"{H}.route[0].destination", "is required", id="VS-51"),
        pytest.param(
            http("route: [{destination: {host: a}, weight: -1}]"), f"{H}.route[0].weight", "got -1", id="VS-52"
        ),
        pytest.param(
            http("route: [{destination: {host: a}}, {destination: {host: b}}]"),
            f"{H}.route",
            "2 destinations with 0 together",
            id="VS-53",
        ),
        pytest.param(
            http("redirect: {uri: /a, prefixRewrite: /b}"), f"{H}.redirect.prefixRewrite", "beside uri", id="VS-54"
        ),
        pytest.param(
            http("match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /b}"),
            f"{H}.redirect.prefixRewrite",
            "by prefix",
            id="VS-55",
        ),
        pytest.param(http("redirect: {redirectCode: 301}"), f"{H}.redirect", "must set uri, prefixRewrite", id="VS-56"),
        pytest.param(
            http("redirect: {uri: /a, redirectCode: 200}"), f"{H}.redirect.redirectCode", "got 200", id="VS-57"
        ),
        pytest.param(
            http("redirect: {uri: /a, redirectCode: 304}"),
            f"{H}.redirect.redirectCode",
            "301, 302, 303, 307 or 308",
            id="VS-57-unknown-to-envoy",
        ),
        pytest.param(http("redirect: {scheme: ftp}"), f"{H}.redirect.scheme", 'got "ftp"', id="VS-58"),
        pytest.param(http("redirect: {port: 70000}"), f"{H}.redirect.port", "got 70000", id="VS-59"),
        pytest.param(http("directResponse: {status: 600}"), f"{H}.directResponse.status", "got 600", id="VS-60-most"),
        pytest.param(http("directResponse: {status: 99}"), f"{H}.directResponse.status", "got 99", id="VS-60"),
        pytest.param(
            http(
                "route: [{destination: {host: a}, weight: 2000000000}, {destination: {host: b}, weight: 2000000000}, "
                "{destination: {host: c}, weight: 2000000000}]"
            ),
            f"{H}.route",
            "at most 4294967295 together, got 6000000000",
            id="weights beyond 32 bits",
        ),
        pytest.param(
            "hosts: ['*.b.com']\ntls: [{match: [{sniHosts: ['*a.b.com']}], route: [{destination: {host: a}}]}]",
            "spec.tls[0].match[0].sniHosts[0]",
            "for whole labels",
            id="server name with a wildcard within a label",
        ),
        pytest.param(
            http(f"directResponse: {{status: 200, body: {{string: {'a' * 1048577}}}}}"),
            f"{H}.directResponse.body",
            "at most 1048576 bytes, got 1048577",
            id="VS-61",
        ),
        pytest.param(routed("retries: {attempts: -1}"), f"{H}.retries.attempts", "got -1", id="VS-63"),
        pytest.param(
            routed("retries: {perTryTimeout: 1s}"), f"{H}.retries.perTryTimeout", "without attempts", id="VS-64"
        ),
        pytest.param(
            routed("retries: {attempts: 1, retryOn: '5xx, reset'}"),
            f"{H}.retries.retryOn",
            '" reset" is neither',
            id="VS-66-blank",
        ),
        pytest.param(
            routed("retries: {attempts: 1, retryOn: 'gateway-eror'}"),
            f"{H}.retries.retryOn",
            "did you mean gateway-error?",
            id="VS-66",
        ),
        pytest.param(
            routed("retries: {attempts: 1, retryOn: '999'}"),
            f"{H}.retries.retryOn",
            '"999" is neither',
            id="VS-66-status",
        ),
        pytest.param(
            routed("rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}"),
            f"{H}.rewrite.uriRegexRewrite",
            "beside uri",
            id="VS-67",
        ),
        pytest.param(routed("rewrite: {}"), f"{H}.rewrite", "must set uri", id="VS-68"),
        pytest.param(
            routed("rewrite: {uriRegexRewrite: {match: '(', rewrite: b}}"),
            f"{H}.rewrite.uriRegexRewrite.match",
            "without",
            id="VS-69",
        ),
        pytest.param(
            routed("rewrite: {uriRegexRewrite: {match: a}}"),
            f"{H}.rewrite.uriRegexRewrite.rewrite",
            "must not be empty",
            id="VS-69-rewrite",
        ),
        pytest.param(
            "hosts: [a]\ntls: [{match: [], route: [{destination: {host: a}}]}]",
            "spec.tls[0].match",
            "at least one",
            id="VS-71",
        ),
        pytest.param(
            "hosts: [a]\ntls: [{match: [{sniHosts: [a]}]}]",
            "spec.tls[0].route",
            "at least one destination",
            id="VS-71-route",
        ),
        pytest.param(
            "hosts: [a]\ntls: [{match: [{sniHosts: []}], route: [{destination: {host: a}}]}]",
            "spec.tls[0].match[0].sniHosts",
            "at least one",
            id="VS-72",
        ),
        pytest.param(
            "hosts: [a.b]\ntls: [{match: [{sniHosts: [c.b]}], route: [{destination: {host: a}}]}]",
            "spec.tls[0].match[0].sniHosts[0]",
            "covered by spec.hosts",
            id="VS-75",
        ),
        pytest.param(
            f"hosts: [a]\ntcp: [{{match: [{{destinationSubnets: [10.0.0.0/40]}}], {ROUTE}}}]",
            "spec.tcp[0].match[0].destinationSubnets[0]",
            "must be an IP",
            id="VS-76",
        ),
        pytest.param(
            f"hosts: [a]\ntcp: [{{match: [{{port: 99999}}], {ROUTE}}}]",
            "spec.tcp[0].match[0].port",
            "got 99999",
            id="VS-77",
        ),
        pytest.param(
            "hosts: [a]\ntcp: [{match: [{port: 1}]}]", "spec.tcp[0].route", "at least one destination", id="VS-78"
        ),
        pytest.param(f"{http(ROUTE)}\nexportTo: [a, a]", "spec.exportTo[1]", 'is given twice, got "a"', id="EX-1"),
        pytest.param(f"{http(ROUTE)}\nexportTo: [., shop]", "spec.exportTo[1]", 'the same namespace as "."', id="EX-2"),
        pytest.param(
            f"{http(ROUTE)}\nexportTo: [a.b]", "spec.exportTo[0]", 'must be "*", "." or a namespace', id="EX-3"
        ),
        pytest.param(f"{http(ROUTE)}\nexportTo: ['~']", "spec.exportTo[0]", "for ServiceEntries only", id="EX-4"),
        pytest.param(f"{http(ROUTE)}\nexportTo: [a, '*']", "spec.exportTo[1]", '"*" must stand alone', id="EX-5"),
    ],
)
def test_what_is_refused(spec: str, field: str, message: str) -> None:
    ((place, text),) = faults("VirtualService", spec, "error")
    assert place == field
    assert message in text


def test_tls_wants_hosts_and_is_held_to_them() -> None:  # VS-02, VS-75
    spec = "tls: [{match: [{sniHosts: [a.b]}], route: [{destination: {host: a}}]}]"
    assert [place for place, _ in faults("VirtualService", spec, "error")] == [
        "spec.hosts",
        "spec.tls[0].match[0].sniHosts[0]",
    ]


def test_a_rule_of_two_values_that_are_wrong_tells_both() -> None:
    spec = routed("timeout: 0s, mirror: {host: b}, mirrorPercent: 101")
    assert [place for place, _ in faults("VirtualService", spec, "error")] == [f"{H}.timeout"]
    spec = routed("mirror: {host: b}, mirrorPercent: 101, retries: {attempts: -1}")
    assert [place for place, _ in faults("VirtualService", spec, "error")] == [  # VS-45, VS-63
        f"{H}.mirrorPercent",
        f"{H}.retries.attempts",
    ]


def two(first: str, second: str) -> str:
    return f"hosts: [a]\nhttp:\n- {{{first}, {ROUTE}}}\n- {{{second}, {ROUTE}}}"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param(http(ROUTE, gateways="[a.b]"), "spec.gateways[0]", "write namespace/name", id="VS-11"),
        pytest.param(routed("fault: {abort: {}}"), f"{H}.fault.abort", "nothing is aborted", id="VS-41"),
        pytest.param(routed("mirror: {host: b}, mirrorPercent: 5"), f"{H}.mirrorPercent", "is deprecated", id="VS-44"),
        pytest.param(
            http(f"directResponse: {{status: 200, body: {{string: {'a' * 102401}}}}}"),
            f"{H}.directResponse.body",
            "hold these 102401 bytes",
            id="VS-62",
        ),
        pytest.param(
            "hosts: [1.2.3.4]\ntls: [{match: [{sniHosts: [1.2.3.4]}], route: [{destination: {host: a}}]}]",
            "spec.tls[0].match[0].sniHosts[0]",
            "never a server name",
            id="VS-74",
        ),
        pytest.param(two("name: x", "name: y"), "spec.http[1]", "can never be reached: spec.http[0]", id="VS-80"),
        pytest.param(
            two("name: x", "match: [{port: 1}]"),
            "spec.http[1]",
            "can never be reached: spec.http[0]",
            id="VS-81",
        ),
        pytest.param(
            two("match: [{port: 1}]", "match: [{port: 1, name: y}, {port: 2}]"),
            "spec.http[1].match[0]",
            "the same as spec.http[0].match[0]",
            id="VS-82",
        ),
        pytest.param(
            two("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /a/b}}]"),
            "spec.http[1].match[0]",
            'begins with "/a"',
            id="VS-84",
        ),
    ],
)
def test_what_is_warned_about(spec: str, field: str, message: str) -> None:
    assert faults("VirtualService", spec, "error") == []
    ((place, text),) = faults("VirtualService", spec, "warning")
    assert place == field
    assert message in text


def test_a_rule_whose_matches_are_all_there_already_is_unreachable() -> None:  # VS-83
    spec = two("match: [{port: 1}, {port: 2}]", "match: [{port: 2}, {port: 1}]")
    places = [place for place, _ in faults("VirtualService", spec, "warning")]
    assert places == ["spec.http[1]", "spec.http[1].match[0]", "spec.http[1].match[1]"]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(http(ROUTE, hosts="[1.2.3.4, '::1']"), id="ip-hosts"),
        pytest.param(http(ROUTE, hosts="['*']", gateways="[edge/public]"), id="star-at-gateway"),
        pytest.param("http: [{name: a, route: [{destination: {host: a}}]}]", id="delegate"),
        pytest.param(http(ROUTE, gateways="[./own, mesh]"), id="own-namespace"),
        pytest.param(
            http(f"{ROUTE}, match: [{{headers: {{'@request.auth.claims[a][b]': {{exact: c}}}}}}]", gateways="[g]"),
            id="claim-at-gateway",
        ),
        pytest.param(routed("match: [{uri: {prefix: ''}}]"), id="empty-uri-prefix"),
        pytest.param(
            routed("match: [{withoutHeaders: {a: {regex: '*'}}, queryParams: {b: {regex: '*'}}}]"), id="presence"
        ),
        pytest.param(routed("headers: {request: {set: {':authority': a}}}"), id="authority"),
        pytest.param(
            routed('headers: {request: {set: {a: \'100%% %REQ(b?c):10% %UPSTREAM_METADATA(["a", "b"])%\'}}}'),
            id="operators",
        ),
        pytest.param(routed("retries: {attempts: 0}"), id="no-retries"),
        pytest.param(routed("retries: {attempts: 2, retryOn: 'gateway-error,503'}"), id="retry-status"),
        pytest.param(
            f"hosts: [{SNI}]\ngateways: [x]\ntls: [{{match: [{{sniHosts: [{SNI}]}}], {ROUTE}}}]",
            id="sni-of-a-cluster",
        ),
    ],
)
def test_what_is_right(spec: str) -> None:
    assert faults("VirtualService", spec, "error") == []


def test_ten_thousand_hosts_are_compared_at_the_cost_of_ten_thousand() -> None:
    hosts = ", ".join(f"h{i}.test" for i in range(10_000))
    assert faults("VirtualService", http(ROUTE, hosts=f"[{hosts}, h77.test]"), "error") == [
        ("spec.hosts[10000]", 'must not overlap with another host, got "h77.test" and "h77.test"')
    ]
