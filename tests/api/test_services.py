"""ServiceEntry, WorkloadEntry, WorkloadGroup, ProxyConfig, Service: the rules beyond their shapes."""

from __future__ import annotations

import pytest
from tests.fakes.judging import faults

from lateen.api.decode import decode_documents

HTTP = "ports: [{number: 80, name: http, protocol: HTTP}]"


def entry(text: str, *, hosts: str = "[a.test]", ports: str = HTTP) -> str:
    return f"hosts: {hosts}\n{ports}\n{text}"


ENTRY = [
    pytest.param(
        entry("resolution: STATIC\nworkloadSelector: {labels: {a: b}}\nendpoints: [{address: 1.1.1.1}]"),
        "spec.endpoints",
        "beside workloadSelector",
        id="SE-01",
    ),
    pytest.param(entry("", hosts="[]"), "spec.hosts", "at least one", id="SE-02"),
    pytest.param(
        entry("", hosts=f"[{', '.join(f'h{i}.test' for i in range(257))}]"),
        "spec.hosts",
        "at most 256 entries, got 257",
        id="SE-02-many",
    ),
    pytest.param(entry("", hosts="['*']"), "spec.hosts[0]", "every host", id="SE-03"),
    pytest.param(entry("", hosts="[a_b]"), "spec.hosts[0]", 'got "a_b"', id="SE-04"),
    pytest.param(entry("addresses: [a.b]"), "spec.addresses[0]", 'got "a.b"', id="SE-06"),
    pytest.param(
        entry("addresses: [10.0.0.0/8]\nresolution: DNS"),
        "spec.addresses[0]",
        "must be an IP with resolution DNS",
        id="SE-07",
    ),
    pytest.param(
        entry("", ports="ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: a, protocol: HTTP}]"),
        "spec.ports[1].name",
        "is given twice",
        id="SE-08",
    ),
    pytest.param(
        entry("", ports="ports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: b, protocol: HTTP}]"),
        "spec.ports[1].number",
        "is given twice, got 80",
        id="SE-08-number",
    ),
    pytest.param(entry("", ports="ports: [null]"), "spec.ports[0]", "must not be null", id="SE-08-null"),
    pytest.param(
        entry("", ports="ports: [{number: 0, name: a, protocol: HTTP}]"), "spec.ports[0].number", "got 0", id="SE-09"
    ),
    pytest.param(
        entry("", ports="ports: [{number: 1, name: a, protocol: HTTP, targetPort: 65536}]"),
        "spec.ports[0].targetPort",
        "got 65536",
        id="SE-09-target",
    ),
    pytest.param(
        entry("", ports="ports: [{number: 1, name: a_b, protocol: HTTP}]"),
        "spec.ports[0].name",
        'got "a_b"',
        id="SE-10",
    ),
    pytest.param(
        entry("", ports="ports: [{number: 1, name: a, protocol: HTPP}]"),
        "spec.ports[0].protocol",
        'got "HTPP"',
        id="SE-10-protocol",
    ),
    pytest.param(entry("endpoints: [{address: 1.1.1.1}]"), "spec.endpoints", "with resolution NONE", id="SE-12"),
    pytest.param(
        entry("resolution: STATIC\nendpoints: [{address: a.b}]"), "spec.endpoints[0].address", 'got "a.b"', id="SE-14"
    ),
    pytest.param(
        entry("resolution: STATIC\nendpoints: [{}]"), "spec.endpoints[0].address", "is required", id="SE-14-empty"
    ),
    pytest.param(entry("resolution: DNS", hosts="['*.a.test']"), "spec.hosts[0]", "cannot be resolved", id="SE-15"),
    pytest.param(
        entry("resolution: DNS_ROUND_ROBIN\nendpoints: [{address: a.b}, {address: c.d}]"),
        "spec.endpoints",
        "at most one",
        id="SE-16",
    ),
    pytest.param(
        entry("resolution: DNS\nendpoints: [{address: 'unix:///a'}]"),
        "spec.endpoints[0].address",
        "an IP or a host name",
        id="SE-17",
    ),
    pytest.param(
        entry("resolution: DNS\nendpoints: [{address: a.b, labels: {a: 'b c'}}]"),
        "spec.endpoints[0].labels.a",
        'got "b c"',
        id="SE-17-labels",
    ),
    pytest.param(
        entry("resolution: DNS\nendpoints: [{address: a.b, ports: {other: 80}}]"),
        "spec.endpoints[0].ports.other",
        "which has http",
        id="SE-18",
    ),
    pytest.param(
        entry("resolution: DNS\nendpoints: [{address: a.b, ports: {http: 0}}]"),
        "spec.endpoints[0].ports.http",
        "got 0",
        id="SE-18-port",
    ),
    pytest.param(entry("resolution: DYNAMIC_DNS"), "spec.hosts[0]", "must be a wildcard", id="SE-20"),
    pytest.param(
        entry("resolution: DYNAMIC_DNS\naddresses: [1.1.1.1]", hosts="['*.a.test']"),
        "spec.addresses",
        "must not be set",
        id="SE-20-addresses",
    ),
    pytest.param(
        entry("resolution: DYNAMIC_DNS", hosts="['*.a.test']", ports="ports: [{number: 1, name: a, protocol: TCP}]"),
        "spec.ports[0].protocol",
        "must be HTTP, HTTP2, GRPC or TLS",
        id="SE-20-protocol",
    ),
    pytest.param(
        entry("resolution: DNS", hosts="[a.test, b.test]", ports="ports: [{number: 1, name: a, protocol: TCP}]"),
        "spec.ports[0].protocol",
        "has 2 hosts",
        id="SE-22",
    ),
    pytest.param(entry("exportTo: ['~', a]"), "spec.exportTo[0]", '"~" must stand alone', id="EX-6"),
    pytest.param(
        entry("workloadSelector: {labels: {a: '*'}}\nresolution: STATIC"),
        "spec.workloadSelector.labels.a",
        "wildcard",
        id="SE-24",
    ),
    pytest.param(entry(f"addresses: [{'a' * 65}]"), "spec.addresses[0]", "at most 64 characters", id="SE-25"),
]


@pytest.mark.parametrize(("spec", "field", "message"), ENTRY)
def test_what_a_service_entry_is_refused_for(spec: str, field: str, message: str) -> None:
    ((place, text),) = faults("ServiceEntry", spec, "error")
    assert place == field
    assert message in text


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param(entry("", hosts="['*a.test']"), "spec.hosts[0]", "write *.foo.com", id="SE-05"),
        pytest.param(
            entry("", ports="ports: [{number: 1, name: a, protocol: TCP}]"),
            "spec.ports[0].protocol",
            "takes all TCP traffic",
            id="SE-11",
        ),
        pytest.param(
            entry("workloadSelector: {labels: {a: b}}"),
            "spec.workloadSelector",
            "no effect with resolution NONE",
            id="SE-13",
        ),
        pytest.param(
            entry(
                "resolution: DNS\naddresses: [1.1.1.1]",
                hosts="[a.test, b.test]",
                ports="ports: [{number: 1, name: a, protocol: TLS}]",
            ),
            "spec.addresses",
            "does not say which",
            id="SE-19",
        ),
    ],
)
def test_what_a_service_entry_is_warned_for(spec: str, field: str, message: str) -> None:
    assert faults("ServiceEntry", spec, "error") == []
    ((place, text),) = faults("ServiceEntry", spec, "warning")
    assert place == field
    assert message in text


def test_dynamic_resolution_behind_a_waypoint_is_for_outside() -> None:  # SE-21
    text = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, labels: {istio.io/use-waypoint: w}}
spec:
  hosts: ['*.a.test']
  resolution: DYNAMIC_DNS
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
"""
    (problem,) = decode_documents(text.encode(), "f").problems
    assert (problem.field, problem.line) == ("spec.location", 7)
    assert decode_documents(text.replace("waypoint: w", "waypoint: none").encode(), "f").problems == ()


def test_a_static_unix_endpoint_serves_one_port() -> None:  # WE-08
    two = "ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: b, protocol: HTTP}]"
    spec = "resolution: STATIC\nendpoints: [{address: 'unix:///a'}]"
    assert faults("ServiceEntry", entry(spec), "error") == []
    assert faults("ServiceEntry", entry(spec, ports=two), "error") == [
        ("spec.endpoints[0].address", "a Unix socket serves one port, the service has 2")
    ]


@pytest.mark.parametrize(
    ("kind", "spec", "field", "message"),
    [
        pytest.param("WorkloadEntry", "{}", "spec.address", "is required, or network", id="WE-01"),
        pytest.param("WorkloadEntry", "address: 'unix://a'", "spec.address", "unix:///absolute/path", id="WE-03"),
        pytest.param(
            "WorkloadEntry", "address: 'unix:///a'\nports: {a: 1}", "spec.ports", "beside a Unix address", id="WE-04"
        ),
        pytest.param("WorkloadEntry", "address: a_b", "spec.address", 'got "a_b"', id="WE-05"),
        pytest.param("WorkloadEntry", "address: a.b\nports: {a_b: 1}", "spec.ports.a_b", "DNS label", id="WE-06"),
        pytest.param("WorkloadEntry", "address: a.b\nports: {a: 0}", "spec.ports.a", "got 0", id="WE-06-port"),
        pytest.param("WorkloadEntry", "address: a.b\nlabels: {a: 'b c'}", "spec.labels.a", 'got "b c"', id="WE-07"),
        pytest.param("WorkloadGroup", "{}", "spec.template", "is required", id="WG-01"),
        pytest.param(
            "WorkloadGroup",
            "template: {}\nmetadata: {labels: {-a: b}}",
            "spec.metadata.labels[-a]",
            "must be a label",
            id="WG-02",
        ),
        pytest.param(
            "WorkloadGroup",
            "template: {}\nprobe: {periodSeconds: -1, exec: {command: [a]}}",
            "spec.probe.periodSeconds",
            "at least 0",
            id="WG-03",
        ),
        pytest.param("WorkloadGroup", "template: {}\nprobe: {}", "spec.probe", "must have httpGet", id="WG-04"),
        pytest.param(
            "WorkloadGroup",
            "template: {}\nprobe: {tcpSocket: {port: 0}}",
            "spec.probe.tcpSocket.port",
            "got 0",
            id="WG-05",
        ),
        pytest.param(
            "WorkloadGroup",
            "template: {}\nprobe: {httpGet: {port: 1, scheme: ftp}}",
            "spec.probe.httpGet.scheme",
            'got "ftp"',
            id="WG-05-scheme",
        ),
        pytest.param(
            "WorkloadGroup",
            "template: {}\nprobe: {httpGet: {port: 1, httpHeaders: [{name: 'a b'}]}}",
            "spec.probe.httpGet.httpHeaders[0].name",
            'got "a b"',
            id="WG-06",
        ),
        pytest.param(
            "WorkloadGroup",
            "template: {}\nprobe: {exec: {command: []}}",
            "spec.probe.exec.command",
            "at least one",
            id="WG-07",
        ),
        pytest.param(
            "WorkloadGroup",
            "template: {}\nprobe: {exec: {command: ['']}}",
            "spec.probe.exec.command[0]",
            "at least 1 characters",
            id="WG-07-empty",
        ),
        pytest.param(
            "WorkloadGroup",
            "template: {address: 'unix://a'}",
            "spec.template.address",
            "unix:///absolute/path",
            id="WG-08",
        ),
        pytest.param("ProxyConfig", "concurrency: -1", "spec.concurrency", "at least 0", id="PC-01"),
        pytest.param(
            "ProxyConfig", "selector: {matchLabels: {a: '*'}}", "spec.selector.matchLabels.a", "wildcard", id="PC-02"
        ),
        pytest.param(
            "ProxyConfig",
            f"environmentVariables: {{A: {'b' * 2049}}}",
            "spec.environmentVariables.A",
            "at most 2048",
            id="PC-03",
        ),
    ],
)
def test_what_workloads_are_refused_for(kind: str, spec: str, field: str, message: str) -> None:
    ((place, text),) = faults(kind, spec, "error")
    assert place == field
    assert message in text


def test_a_workload_of_another_network_is_told_what_it_stands_for() -> None:  # WE-02
    ((field, message),) = faults("WorkloadEntry", "network: east", "warning")
    assert field == "spec.address"
    assert 'the gateway of network "east"' in message


def service(spec: str, metadata: str = "{name: a}") -> list[str]:
    text = f"apiVersion: v1\nkind: Service\nmetadata: {metadata}\nspec: {{{spec}}}\n"
    return [f"{problem.field}: {problem.message}" for problem in decode_documents(text.encode(), "f").problems]


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param("ports: []", "spec.ports", "at least one entry", id="no-ports"),
        pytest.param("ports: [{port: 0}]", "spec.ports[0].port", "got 0", id="port"),
        pytest.param(
            "ports: [{port: 1, name: a}, {port: 2}]",
            "spec.ports[1].name",
            "is required where there are several",
            id="nameless",
        ),
        pytest.param(
            "ports: [{port: 1, name: a}, {port: 2, name: a}]", "spec.ports[1].name", "is given twice", id="same-name"
        ),
        pytest.param(
            "ports: [{port: 1, name: a}, {port: 1, name: b}]",
            "spec.ports[1].port",
            "is given twice for TCP, got 1",
            id="same-port",
        ),
        pytest.param("ports: [{port: 1, name: HTTP}]", "spec.ports[0].name", "lower-case", id="upper-case"),
        pytest.param("ports: [{port: 1, targetPort: 0}]", "spec.ports[0].targetPort", "got 0", id="target"),
        pytest.param(
            "ports: [{port: 1, targetPort: '80'}]", "spec.ports[0].targetPort", 'got "80"', id="quoted-target"
        ),
        pytest.param(
            "ports: [{port: 1, targetPort: 1.5}]", "spec.ports[0].targetPort", "whole number or text", id="fraction"
        ),
        pytest.param("ports: [{port: 1, protocol: tcp}]", "spec.ports[0].protocol", "did you mean TCP?", id="protocol"),
        pytest.param("ports: [{port: 1}], clusterIP: a", "spec.clusterIP", 'got "a"', id="address"),
        pytest.param(
            "ports: [{port: 1}], type: NodePort, clusterIP: None", "spec.clusterIP", "NodePort", id="headless-node-port"
        ),
        pytest.param("type: ExternalName", "spec.externalName", "must be a host name", id="external-nameless"),
        pytest.param(
            "type: ExternalName, externalName: a.b, clusterIP: 1.1.1.1",
            "spec.clusterIP",
            "must not be set",
            id="external-address",
        ),
        pytest.param("ports: [{port: 1}], selector: {a: 'b c'}", "spec.selector.a", 'got "b c"', id="selector"),
    ],
)
def test_what_a_service_is_refused_for(spec: str, field: str, message: str) -> None:
    (problem,) = service(spec)
    assert problem.startswith(f"{field}: ")
    assert message in problem


def test_what_a_service_may_be() -> None:
    assert service("clusterIP: None") == []
    assert service("ports: [{port: 1, name: a}, {port: 1, name: b, protocol: UDP}]") == []
    assert service("type: ExternalName, externalName: a.b") == []


def test_a_services_name_and_export_are_held_to_their_rules() -> None:
    assert service("ports: [{port: 1}]", "{name: 1a}") == [
        'metadata.name: must be a lower-case DNS label that begins with a letter, got "1a"'
    ]
    ok = "{name: a, annotations: {networking.istio.io/exportTo: '., edge'}}"
    assert service("ports: [{port: 1}]", ok) == []
    (problem,) = service("ports: [{port: 1}]", ok.replace("edge", "a b"))
    assert problem.startswith("metadata.annotations[networking.istio.io/exportTo]: ")


@pytest.mark.parametrize(
    ("value", "port", "message"),
    [
        pytest.param("true", "redis", None, id="on"),
        pytest.param("false", "http", None, id="off"),
        pytest.param("yes", "redis", 'must be "true" or "false", got "yes"', id="neither"),
        pytest.param("true", "http", "acts on ports of protocol REDIS only", id="no-such-port"),
    ],
)
def test_who_may_ask_for_the_redis_proxy(value: str, port: str, message: str | None) -> None:
    metadata = f"{{name: a, annotations: {{lateen.local/redis-proxy: '{value}'}}}}"
    found = service(f"ports: [{{port: 1, name: {port}}}]", metadata)
    assert (message is None) == (found == [])
    if message is not None:
        assert f"metadata.annotations[lateen.local/redis-proxy]: {message}" in found[0]
