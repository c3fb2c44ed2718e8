"""WasmPlugin and TrafficExtension: what is read, what is refused, and where."""

from __future__ import annotations

import pytest
from tests.fakes.judging import faults, judge, read_spec, refusal

from lateen.api.extensions import EnvVar, PortSelector

SHA = "7f0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d"
WASM = f"""
targetRefs:
- {{group: gateway.networking.k8s.io, kind: Gateway, name: public}}
url: oci://registry.example.org/filters/header-guard:1.4
sha256: {SHA}
imagePullPolicy: IfNotPresent
imagePullSecret: registry-login
verificationKey: key
phase: AUTHZ
priority: 20
failStrategy: FAIL_OPEN
pluginName: guard_root
pluginConfig:
  deny: ["x-internal"]
  maxLen: 4096
vmConfig:
  env:
  - {{name: REGION, valueFrom: HOST}}
  - {{name: LEVEL, value: info}}
match:
- mode: CLIENT
  ports: [{{number: 8443}}]
type: HTTP
"""
LUA = """
selector: {matchLabels: {app: cart}}
phase: STATS
priority: -5
match: [{mode: SERVER, ports: [{number: 8080}]}]
lua:
  inlineCode: |
    function envoy_on_response(h)
    end
"""


def test_a_wasm_plugin_is_read_whole() -> None:
    assert judge("WasmPlugin", WASM) == []
    plugin = read_spec("WasmPlugin", WASM)
    assert plugin.plugin_config == {"deny": ("x-internal",), "maxLen": 4096}
    assert plugin.vm_config.env == (EnvVar(name="REGION", value_from="HOST"), EnvVar(name="LEVEL", value="info"))
    assert plugin.match[0].ports == (PortSelector(number=8443),)
    assert (plugin.phase, plugin.priority, plugin.fail_strategy, plugin.type) == ("AUTHZ", 20, "FAIL_OPEN", "HTTP")
    assert read_spec("WasmPlugin", "url: a/b").priority is None
    assert hash(plugin)  # free-form configuration included: it is part of what decides a listener


def test_a_traffic_extension_is_read_whole() -> None:
    assert judge("TrafficExtension", LUA) == []
    extension = read_spec("TrafficExtension", LUA)
    assert extension.priority == -5
    assert extension.lua.inline_code.startswith("function envoy_on_response")
    spec = f"wasm: {{url: 'file:///a.wasm', sha256: {SHA}, type: NETWORK, failStrategy: FAIL_RELOAD}}"
    assert read_spec("TrafficExtension", spec).wasm.type == "NETWORK"


FAULTS = [
    pytest.param("url: ''", "url", "required", id="WP-01"),
    pytest.param("url: 'ftp://a/b'", "url", "ftp", id="WP-02-scheme"),
    pytest.param("url: 'https://a:b/c'", "url", "URL", id="WP-02-port"),
    pytest.param("url: a\nsha256: ABC", "sha256", "ABC", id="WP-03"),
    pytest.param("url: a\nimagePullSecret: " + "a" * 254, "imagePullSecret", "253", id="WP-04-long"),
    pytest.param("url: a\nimagePullSecret: ''", "imagePullSecret", "1 to 253", id="WP-04-empty"),
    pytest.param("url: a\npluginName: " + "a" * 257, "pluginName", "256", id="WP-05"),
    pytest.param("url: a\nvmConfig: {env: [{name: ''}]}", "vmConfig.env[0].name", "256", id="WP-06-name"),
    pytest.param(
        "url: a\nvmConfig: {env: [" + ",".join(f"{{name: e{i}}}" for i in range(257)) + "]}",
        "vmConfig.env",
        "256",
        id="WP-06-many",
    ),
    pytest.param(
        "url: a\nvmConfig: {env: [{name: a, value: " + "b" * 2049 + "}]}",
        "vmConfig.env[0].value",
        "2048",
        id="WP-06-v",
    ),
    pytest.param("url: a\nvmConfig: {env: [{name: a}, {name: a}]}", "vmConfig.env[1].name", "twice", id="WP-07"),
    pytest.param(
        "url: a\nvmConfig: {env: [{name: a, valueFrom: HOST, value: b}]}", "vmConfig.env[0].value", "HOST", id="WP-08"
    ),
]
MATCH_FAULTS = [
    pytest.param("[null]", "match[0]", "null", id="WP-09"),
    pytest.param("[{ports: [{number: 0}]}]", "match[0].ports[0].number", "1", id="WP-10"),
    pytest.param("[{ports: [{number: 80}, {number: 80}]}]", "match[0].ports[1].number", "twice", id="WP-11"),
]


@pytest.mark.parametrize(("spec", "field", "words"), FAULTS)
def test_a_wasm_module_that_cannot_hold(spec: str, field: str, words: str) -> None:
    for kind, path, text in (
        ("WasmPlugin", "spec", spec),
        ("TrafficExtension", "spec.wasm", "wasm:\n" + "\n".join(f"  {line}" for line in spec.splitlines())),
    ):
        found = faults(kind, text, "error")
        assert [f for f, _ in found] == [f"{path}.{field}"]
        assert words in found[0][1]


@pytest.mark.parametrize(("match", "field", "words"), MATCH_FAULTS)
def test_a_match_that_cannot_hold(match: str, field: str, words: str) -> None:
    for kind, rest in (("WasmPlugin", "url: a"), ("TrafficExtension", "lua: {inlineCode: a}")):
        found = faults(kind, f"{rest}\nmatch: {match}", "error")
        assert [f for f, _ in found] == [f"spec.{field}"]
        assert words in found[0][1]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param("phase: AUTHN", "spec", "neither", id="TX-01-neither"),
        pytest.param("lua: {inlineCode: a}\nwasm: {url: a}", "spec", "both", id="TX-01-both"),
        pytest.param("lua: {inlineCode: ''}", "spec.lua.inlineCode", "got 0", id="TX-02"),
        pytest.param("lua: {inlineCode: " + "é" * 32769 + "}", "spec.lua.inlineCode", "65538", id="TX-03-bytes"),
        pytest.param(
            "lua: {inlineCode: a}\nselector: {matchLabels: {a: '*'}}", "spec.selector.matchLabels.a", "*", id="TX-06"
        ),
    ],
)
def test_a_traffic_extension_that_cannot_hold(spec: str, field: str, words: str) -> None:
    found = faults("TrafficExtension", spec, "error")
    assert [f for f, _ in found] == [field]
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("kind", "spec", "hint"),
    [
        ("WasmPlugin", "url: a\nplugginConfig: {}", "pluginConfig"),
        ("WasmPlugin", "url: a\nphase: AUTH", "AUTHN"),
        ("TrafficExtension", "lua: {inlinecode: a}", "inlineCode"),
        ("WasmPlugin", "phase: AUTHN", "url"),
        ("TrafficExtension", "lua: {inlineCode: a}\ntargetRef: {kind: Gateway, name: a}", "targetRefs"),
    ],
)
def test_a_misspelling_is_refused_with_the_nearest_name(kind: str, spec: str, hint: str) -> None:
    assert hint in "".join(map(str, judge(kind, spec)))


def test_a_free_form_configuration_may_hold_anything() -> None:
    assert refusal("WasmPlugin", "url: a\npluginConfig: [1]")
    assert judge("WasmPlugin", "url: a\npluginConfig: {a: [1, null, {b: true}]}") == []
