"""Sidecar and EnvoyFilter: the rules beyond their shapes, by the ids of docs/api."""

from __future__ import annotations

import pytest
from tests.fakes.judging import faults


def ingress(text: str = "", port: str = "{number: 80, protocol: HTTP, name: http}") -> str:
    return f"ingress: [{{port: {port}{', ' if text else ''}{text}}}]"


def egress(text: str = "", hosts: str = "['./*']") -> str:
    return f"egress: [{{hosts: {hosts}{', ' if text else ''}{text}}}]"


TLS = "{number: 443, protocol: HTTPS, name: https}"
FILES = "serverCertificate: /a, privateKey: /b"
I = "spec.ingress[0]"  # noqa: E741
E = "spec.egress[0]"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param(
            egress() + "\nworkloadSelector: {labels: {a: '*'}}",
            "spec.workloadSelector.labels.a",
            "wildcard",
            id="SC-01",
        ),
        pytest.param("{}", "spec", "must have egress", id="SC-02"),
        pytest.param("ingress: [{bind: 1.1.1.1}]", f"{I}.port", "is required", id="SC-03"),
        pytest.param(
            ingress(port="{number: 80, targetPort: 1}"), f"{I}.port.targetPort", "must not be set", id="SC-04"
        ),
        pytest.param(ingress(port="{number: 80, name: a_b}"), f"{I}.port.name", 'got "a_b"', id="SC-05"),
        pytest.param(
            ingress(port="{number: 80, protocol: HTP}"), f"{I}.port.protocol", 'got "HTP"', id="SC-05-protocol"
        ),
        pytest.param(ingress(port="{number: 0}"), f"{I}.port.number", "got 0", id="SC-05-number"),
        pytest.param(ingress("bind: a"), f"{I}.bind", 'got "a"', id="SC-06"),
        pytest.param(
            "ingress: [{port: {number: 1}}, {port: {number: 1}}]",
            "spec.ingress[1].port.number",
            "is given twice",
            id="SC-07",
        ),
        pytest.param(
            ingress("defaultEndpoint: 1.2.3.4:80"), f"{I}.defaultEndpoint", "must be 127.0.0.1:PORT", id="SC-08"
        ),
        pytest.param(
            ingress("defaultEndpoint: '127.0.0.1:0'"), f"{I}.defaultEndpoint", "must be 127.0.0.1:PORT", id="SC-08-port"
        ),
        pytest.param(
            ingress("defaultEndpoint: 'unix://a'"), f"{I}.defaultEndpoint", "unix:///absolute/path", id="SC-08-unix"
        ),
        pytest.param(
            ingress(f"tls: {{mode: SIMPLE, {FILES}, subjectAltNames: [a]}}", TLS),
            f"{I}.tls.subjectAltNames",
            "for a sidecar",
            id="SC-09",
        ),
        pytest.param(ingress("tls: {mode: ISTIO_MUTUAL}", TLS), f"{I}.tls.mode", "SIMPLE or MUTUAL", id="SC-10"),
        pytest.param(ingress(f"tls: {{mode: SIMPLE, {FILES}}}"), f"{I}.tls", "HTTPS or TLS", id="SC-11"),
        pytest.param(ingress("connectionPool: {}"), f"{I}.connectionPool", "must have tcp or http", id="SC-12"),
        pytest.param(
            "inboundConnectionPool: {tcp: {maxConnections: -1}}",
            "spec.inboundConnectionPool.tcp.maxConnections",
            "got -1",
            id="SC-12-inbound",
        ),
        pytest.param(
            "egress: [{hosts: ['./*']}, {port: {number: 1}, hosts: ['./*']}]", E, "must be the last one", id="SC-14"
        ),
        pytest.param(egress("port: {number: 0}"), f"{E}.port.number", "0 wants a Unix bind", id="SC-15"),
        pytest.param(
            egress("port: {number: 0}, bind: 'unix:///a', captureMode: IPTABLES"),
            f"{E}.captureMode",
            "must not be IPTABLES",
            id="SC-15-capture",
        ),
        pytest.param(
            egress("port: {number: 0}, bind: 'unix://a'"), f"{E}.bind", "unix:///absolute/path", id="SC-15-path"
        ),
        pytest.param(egress("port: {number: 70000}"), f"{E}.port.number", "got 70000", id="SC-16"),
        pytest.param(egress("port: {number: 1}, bind: a"), f"{E}.bind", 'got "a"', id="SC-16-bind"),
        pytest.param(
            "egress: [{port: {number: 1}, hosts: ['./*']}, {port: {number: 1}, hosts: ['./*']}]",
            "spec.egress[1].port.number",
            "is given twice",
            id="SC-17",
        ),
        pytest.param(
            "egress: [{port: {}, bind: 'unix://@a', hosts: ['./*']}, {port: {}, bind: 'unix://@a', hosts: ['./*']}]",
            "spec.egress[1].bind",
            "is given twice",
            id="SC-17-bind",
        ),
        pytest.param(egress(hosts="[]"), f"{E}.hosts", "at least one", id="SC-18"),
        pytest.param(egress(hosts="[a.b]"), f"{E}.hosts[0]", "must be namespace/host", id="SC-19"),
        pytest.param(egress(hosts="['a.b/*']"), f"{E}.hosts[0]", "must begin with a namespace", id="SC-19-namespace"),
        pytest.param(egress(hosts="['./reviews']"), f"{E}.hosts[0]", "full host name", id="SC-19-short"),
        pytest.param(egress(hosts="['./*a.b']"), f"{E}.hosts[0]", "full host name", id="SC-19-partial"),
        pytest.param(
            "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}",
            "spec.outboundTrafficPolicy.mode",
            "for MeshConfig only",
            id="SC-21",
        ),
        pytest.param(
            "outboundTrafficPolicy: {egressProxy: {host: a.b, port: {number: 1}}}",
            "spec.outboundTrafficPolicy.egressProxy",
            "wants mode ALLOW_ANY",
            id="SC-22",
        ),
        pytest.param(
            "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b}}",
            "spec.outboundTrafficPolicy.egressProxy.port",
            "is required",
            id="SC-22-port",
        ),
        pytest.param(egress("bind: 1.1.1.1"), f"{E}.bind", "wants a port", id="bind-without-port"),
    ],
)
def test_what_a_sidecar_is_refused_for(spec: str, field: str, message: str) -> None:
    ((place, text),) = faults("Sidecar", spec, "error")
    assert place == field
    assert message in text


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param(egress() + "\nworkloadSelector: {}", "spec.workloadSelector", "whole namespace", id="SEL-4"),
        pytest.param(
            ingress("connectionPool: {http: {}}", "{number: 1, protocol: TCP}"),
            f"{I}.connectionPool.http",
            "no effect for TCP",
            id="SC-13",
        ),
        pytest.param(egress(hosts="['./*', './*']"), f"{E}.hosts[1]", "is given twice", id="SC-20"),
        pytest.param(egress(hosts="['a/*', 'a/b.c']"), f"{E}.hosts[1]", 'covered by "a/*"', id="SC-20-covered"),
        pytest.param(egress(hosts="['*/*', 'a/b.c', '~d/*']"), f"{E}.hosts[1]", 'covered by "*/*"', id="SC-20-all"),
    ],
)
def test_what_a_sidecar_is_warned_for(spec: str, field: str, message: str) -> None:
    assert faults("Sidecar", spec, "error") == []
    ((place, text),) = faults("Sidecar", spec, "warning")
    assert place == field
    assert message in text


def test_two_listeners_for_all_the_rest_are_one_too_many() -> None:  # SC-14
    spec = "egress: [{port: {number: 2}, hosts: ['./*']}, {hosts: ['./*']}, {hosts: ['a/*']}]"
    assert [field for field, _ in faults("Sidecar", spec, "error")] == ["spec.egress[1]", "spec.egress[2]"]


def patch(text: str) -> str:
    return f"configPatches: [{{{text}}}]"


C = "spec.configPatches[0]"
ADD = "patch: {operation: ADD, value: {}}"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param(patch(ADD), f"{C}.applyTo", "is required", id="EF-04"),
        pytest.param(patch("applyTo: CLUSTER"), f"{C}.patch", "is required", id="EF-04-patch"),
        pytest.param(
            patch("applyTo: CLUSTER, patch: {value: {}}"), f"{C}.patch.operation", "is required", id="EF-04-operation"
        ),
        pytest.param(
            patch("applyTo: CLUSTER, patch: {operation: ADD}"),
            f"{C}.patch.value",
            "is required for ADD",
            id="EF-04-value",
        ),
        pytest.param(
            patch(f"applyTo: CLUSTER, {ADD}, match: {{proxy: {{proxyVersion: '('}}}}"),
            f"{C}.match.proxy.proxyVersion",
            "must be a regular",
            id="EF-05",
        ),
        pytest.param(
            patch(f"applyTo: HTTP_FILTER, {ADD}, match: {{cluster: {{}}}}"),
            f"{C}.match.cluster",
            "must be match.listener",
            id="EF-07",
        ),
        pytest.param(
            patch(f"applyTo: VIRTUAL_HOST, {ADD}, match: {{listener: {{}}}}"),
            f"{C}.match.listener",
            "must be match.routeConfiguration",
            id="EF-08",
        ),
        pytest.param(
            patch(f"applyTo: CLUSTER, {ADD}, match: {{listener: {{}}}}"),
            f"{C}.match.listener",
            "must be match.cluster",
            id="EF-09",
        ),
        pytest.param(
            patch(f"applyTo: HTTP_FILTER, {ADD}, match: {{listener: {{filterChain: {{filter: {{}}}}}}}}"),
            f"{C}.match.listener.filterChain.filter.name",
            "is required",
            id="EF-11",
        ),
        pytest.param(
            patch(
                f"applyTo: NETWORK_FILTER, "
                f"{ADD}, match: {{listener: {{filterChain: {{filter: {{name: a, subFilter: {{name: b}}}}}}}}}}",
            ),
            f"{C}.match.listener.filterChain.filter.subFilter",
            "for applyTo HTTP_FILTER",
            id="EF-12",
        ),
        pytest.param(
            patch(
                f"applyTo: HTTP_FILTER, "
                f"{ADD}, match: {{listener: {{filterChain: {{filter: {{name: a, subFilter: {{name: b}}}}}}}}}}",
            ),
            f"{C}.match.listener.filterChain.filter.subFilter",
            "http_connection_manager",
            id="EF-12-manager",
        ),
        pytest.param(
            "workloadSelector: {labels: {a: b}}\ntargetRefs: [{kind: a, name: b}]",
            "spec.targetRefs",
            "only one of",
            id="EF-16",
        ),
    ],
)
def test_what_an_envoy_filter_is_refused_for(spec: str, field: str, message: str) -> None:
    ((place, text),) = faults("EnvoyFilter", spec, "error")
    assert place == field
    assert message in text


def test_waypoints_are_matched_in_their_own_context() -> None:  # EF-16
    waypoint = patch(f"applyTo: HTTP_FILTER, {ADD}, match: {{context: WAYPOINT, listener: {{}}}}")
    assert faults("EnvoyFilter", waypoint, "error") == [
        (f"{C}.match", "context WAYPOINT and match.waypoint go together")
    ]


def test_an_envoy_filter_is_always_warned_about() -> None:  # EF-01, EF-06, EF-10, EF-13
    assert [field for field, _ in faults("EnvoyFilter", "{}", "warning")] == [""]
    long = patch(f"applyTo: CLUSTER, {ADD}, match: {{proxy: {{proxyVersion: {'a' * 1025}}}}}")
    assert faults("EnvoyFilter", long, "warning")[1][0] == f"{C}.match.proxy.proxyVersion"
    place = f"{C}.match.listener.filterChain.filter"
    filtered = patch(f"applyTo: LISTENER, {ADD}, match: {{listener: {{filterChain: {{filter: {{name: a}}}}}}}}")
    assert faults("EnvoyFilter", filtered, "warning")[1] == (place, "has no effect for applyTo LISTENER")
    old = patch(
        f"applyTo: NETWORK_FILTER, {ADD}, match: {{listener: {{filterChain: {{filter: {{name: envoy.router}}}}}}}}"
    )
    assert faults("EnvoyFilter", old, "warning")[1][0] == f"{place}.name"
    port_name = patch(f"applyTo: LISTENER, {ADD}, match: {{listener: {{portName: http}}}}")
    assert faults("EnvoyFilter", port_name, "warning")[1][0] == f"{C}.match.listener.portName"


@pytest.mark.parametrize(
    ("apply_to", "operation", "match", "place"),
    [
        ("LISTENER", "REPLACE", "{}", "patch.operation"),
        ("CLUSTER", "REPLACE", "{}", "patch.operation"),
        ("HTTP_ROUTE", "REPLACE", "{}", "patch.operation"),
        ("ROUTE_CONFIGURATION", "ADD", "{}", "patch.operation"),
        ("ROUTE_CONFIGURATION", "REMOVE", "{}", "patch.operation"),
        ("EXTENSION_CONFIG", "MERGE", "{}", "patch.operation"),
        ("BOOTSTRAP", "ADD", "{}", "patch.operation"),
        ("LISTENER_FILTER", "MERGE", "{listener: {portNumber: 80}}", "match"),
        ("NETWORK_FILTER", "REMOVE", "{}", "match"),
        ("HTTP_FILTER", "REPLACE", "{listener: {filterChain: {filter: {name: a}}}}", "match"),
    ],
)
def test_operations_without_effect_are_refused(apply_to: str, operation: str, match: str, place: str) -> None:
    written = patch(f"applyTo: {apply_to}, patch: {{operation: {operation}, value: {{name: a}}}}, match: {match}")
    ((field, message),) = faults("EnvoyFilter", written, "error")
    assert field == f"{C}.{place}"
    assert operation in message
