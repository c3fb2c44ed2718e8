"""Gateway: the rules beyond its shape, by the ids of docs/api/Gateway.md."""

from __future__ import annotations

import pytest
from tests.fakes.judging import faults

from lateen.api.decode import decode_documents


def server(text: str = "", *, port: str = "{number: 80, name: web, protocol: HTTP}", hosts: str = "['*']") -> str:
    return f"servers: [{{port: {port}, hosts: {hosts}{', ' if text else ''}{text}}}]"


def tls(text: str, protocol: str = "HTTPS") -> str:
    return server(f"tls: {{{text}}}", port=f"{{number: 443, name: tls, protocol: {protocol}}}")


S = "spec.servers[0]"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param("{}", "spec.servers", "at least one entry", id="GW-02"),
        pytest.param(
            "servers: [{port: {number: 1, name: a, protocol: TCP}, hosts: ['*']}, {port: "
            "{number: 2, name: a, protocol: TCP}, hosts: ['*']}]",
            "spec.servers[1].port.name",
            "is given twice",
            id="GW-03",
        ),
        pytest.param(server(hosts="[]"), f"{S}.hosts", "at least one entry", id="GW-05"),
        pytest.param(server(hosts="[reviews]"), f"{S}.hosts[0]", "must have a dot", id="GW-06"),
        pytest.param(server(hosts="[a.*]"), f"{S}.hosts[0]", "or a wildcard", id="GW-07"),
        pytest.param(server(hosts="['*a.b']"), f"{S}.hosts[0]", "or a wildcard", id="GW-07-partial"),
        pytest.param(server(hosts="['/a.b']"), f"{S}.hosts[0]", "must be namespace/host", id="GW-08"),
        pytest.param(server(hosts="['a/']"), f"{S}.hosts[0]", "must have a dot", id="GW-08-name"),
        pytest.param("servers: [{hosts: ['*']}]", f"{S}.port", "is required in Server", id="GW-09"),
        pytest.param(
            server(port="{number: 80, name: '', protocol: HTTP}"),
            f"{S}.port.name",
            "must not be empty",
            id="GW-09-name",
        ),
        pytest.param(
            server(port="{number: 80, name: a, protocol: HTP}"), f"{S}.port.protocol", 'got "HTP"', id="GW-10"
        ),
        pytest.param(server(port="{number: 0, name: a, protocol: HTTP}"), f"{S}.port.number", "got 0", id="GW-11"),
        pytest.param(
            server(port="{number: 80, name: a, protocol: HTTP, targetPort: 81}"),
            f"{S}.port.targetPort",
            "must not be set",
            id="GW-12",
        ),
        pytest.param(server("bind: 'unix:///a'"), f"{S}.port.number", "must be 0 with a Unix bind", id="GW-13"),
        pytest.param(
            server("bind: 'unix://a'", port="{number: 0, name: a, protocol: TCP}"),
            f"{S}.bind",
            "unix:///absolute/path",
            id="GW-13-path",
        ),
        pytest.param(server("bind: localhost"), f"{S}.bind", 'got "localhost"', id="GW-14"),
        pytest.param(
            server(port="{number: 443, name: a, protocol: HTTPS}"), f"{S}.tls", "is required for HTTPS", id="GW-15"
        ),
        pytest.param(server("tls: {mode: SIMPLE}"), f"{S}.tls.mode", "HTTP is not encrypted", id="GW-16"),
        pytest.param(server("tls: {privateKey: /a}"), f"{S}.tls.privateKey", "means nothing for HTTP", id="GW-16-file"),
        pytest.param(
            server("tls: {}", port="{number: 1, name: a, protocol: TCP}"),
            f"{S}.tls",
            "must not be set for TCP",
            id="GW-17",
        ),
        pytest.param(
            tls("mode: ISTIO_MUTUAL, credentialName: a"),
            f"{S}.tls.credentialName",
            "the workload has its own",
            id="GW-20",
        ),
        pytest.param(
            tls("mode: SIMPLE, credentialName: a, tlsCertificates: [{serverCertificate: /a, privateKey: /b}]"),
            f"{S}.tls.tlsCertificates",
            "beside credentialName",
            id="GW-22",
        ),
        pytest.param(
            tls("mode: SIMPLE, privateKey: /a"), f"{S}.tls.serverCertificate", "is required for SIMPLE", id="GW-23"
        ),
        pytest.param(
            tls("mode: SIMPLE, tlsCertificates: [{serverCertificate: /a}]"),
            f"{S}.tls.tlsCertificates[0].privateKey",
            "is required for SIMPLE",
            id="GW-23-pair",
        ),
        pytest.param(
            tls("mode: MUTUAL, serverCertificate: /a, privateKey: /b"),
            f"{S}.tls.caCertificates",
            "is required for MUTUAL",
            id="GW-24",
        ),
        pytest.param(
            tls("mode: SIMPLE, serverCertificate: /a, privateKey: /b, caCrl: /c"),
            f"{S}.tls.caCrl",
            "means nothing for SIMPLE",
            id="GW-26",
        ),
        pytest.param(
            tls("mode: SIMPLE, credentialNames: [a, b, c]"),
            f"{S}.tls.credentialNames",
            "at most 2 entries, got 3",
            id="GW-27",
        ),
        pytest.param(
            tls("mode: SIMPLE, credentialNames: [a], credentialName: b"),
            f"{S}.tls.credentialName",
            "only one of",
            id="GW-27-one-of",
        ),
    ],
)
def test_what_is_refused(spec: str, field: str, message: str) -> None:
    ((place, text),) = faults("Gateway", spec, "error")
    assert place == field
    assert message in text


def test_a_gateways_name_is_a_label() -> None:  # GW-01
    text = f"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: a.b}}\nspec: {{{server()}}}\n"
    (problem,) = decode_documents(text.encode(), "f.yaml").problems
    assert str(problem) == 'f.yaml:3: metadata.name: must be a DNS label, got "a.b"'


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param(
            tls("mode: SIMPLE, credentialName: a, httpsRedirect: true"),
            f"{S}.tls.httpsRedirect",
            "no effect",
            id="GW-04",
        ),
        pytest.param(
            tls("mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_0"),
            f"{S}.tls.minProtocolVersion",
            "TLSV1_0 wants cipherSuites",
            id="GW-18",
        ),
        pytest.param(
            tls("mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SH]"),
            f"{S}.tls.cipherSuites[0]",
            "did you mean AES128-SHA?",
            id="GW-19",
        ),
        pytest.param(
            tls("mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SHA, AES128-SHA]"),
            f"{S}.tls.cipherSuites[1]",
            "is given twice",
            id="GW-19-double",
        ),
        pytest.param(
            tls("mode: PASSTHROUGH, privateKey: /a"), f"{S}.tls.privateKey", "has no effect for PASSTHROUGH", id="GW-21"
        ),
        pytest.param(
            tls(
                "mode: SIMPLE, tlsCertificates: [{serverCertificate: /a, privateKey: /a}, {serverCertificate: /a, "
                "privateKey: /a}, {serverCertificate: /a, privateKey: /a}]",
            ),
            f"{S}.tls.tlsCertificates",
            "at most 2 are used",
            id="GW-25",
        ),
    ],
)
def test_what_is_warned_about(spec: str, field: str, message: str) -> None:
    assert faults("Gateway", spec, "error") == []
    ((place, text),) = faults("Gateway", spec, "warning")
    assert place == field
    assert message in text
