"""EnvoyFilter's patches on single messages: what their values are, how they merge, where they act."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.json_format import MessageToDict, ParseDict
from tests.pilot.translate.cases import cluster as cluster_input

from lateen.api.decode import decode_documents
from lateen.pilot.model.envoy_filters import Patch, _patch
from lateen.pilot.model.values import AutoMtls
from lateen.pilot.translate.clusters import build_outbound_cluster
from lateen.pilot.translate.pack import TYPE_PREFIX, pack
from lateen.pilot.translate.patches.check import patch_problems
from lateen.pilot.translate.patches.clusters import patch_cluster
from lateen.pilot.translate.patches.listeners import patch_listener
from lateen.pilot.translate.patches.merge import merged
from lateen.pilot.translate.patches.outcome import Trace
from lateen.pilot.translate.patches.parse import ValueFault, parse_value
from lateen.pilot.translate.patches.types import message_class
from lateen.pilot.translate.patches.values import usable
from lateen.pilot.translate.upstream_http import OPTIONS_KEY

HEAD = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: f}"
OPTIONS = f"{TYPE_PREFIX}envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def merge(base: dict[str, Any], value: str, *, replace_lists: bool = False) -> dict[str, Any]:
    """Merge YAML into a cluster and return what it is then."""
    parsed = parse_value(yaml.safe_load(value), Cluster, "")
    message = merged(ParseDict(base, Cluster()), parsed, replace_lists=replace_lists)
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def patches(*texts: str) -> tuple[Patch, ...]:
    listed = "\n".join(f"  - {text}" for text in texts)
    (obj,) = decode_documents(
        f"{HEAD}\nspec:\n  configPatches:\n{listed}".encode(),
        "f.yaml",
    ).objects
    return usable(tuple(_patch(obj, at, each, False) for at, each in enumerate(obj.spec.config_patches)))


# ---------------------------------------------------------------- merging


@pytest.mark.parametrize(
    ("base", "value", "after"),
    [
        pytest.param({"connect_timeout": "10s"}, "connect_timeout: 0.5s", {"connect_timeout": "0.500s"}, id="duration"),
        pytest.param(
            {"per_connection_buffer_limit_bytes": 5},
            "perConnectionBufferLimitBytes: 0",
            {"per_connection_buffer_limit_bytes": 0},
            id="wrapped-number",
        ),
        pytest.param({"respect_dns_ttl": True}, "respect_dns_ttl: false", {}, id="written-default-clears"),
        pytest.param(
            {"outlier_detection": {"interval": "1s"}},
            "outlier_detection: {base_ejection_time: 2s}",
            {"outlier_detection": {"interval": "1s", "base_ejection_time": "2s"}},
            id="message-is-entered",
        ),
        pytest.param(
            {"circuit_breakers": {"thresholds": [{"priority": "HIGH"}]}},
            "circuit_breakers: {thresholds: [{max_retries: 1}]}",
            {"circuit_breakers": {"thresholds": [{"priority": "HIGH"}, {"max_retries": 1}]}},
            id="list-appends",
        ),
        pytest.param(
            {"metadata": {"filter_metadata": {"istio": {"a": 1.0, "b": {"c": "d"}}}}},
            "metadata: {filter_metadata: {istio: {a: 2, b: {e: f}}, mine: {x: y}}}",
            {"metadata": {"filter_metadata": {"istio": {"a": 2.0, "b": {"c": "d", "e": "f"}}, "mine": {"x": "y"}}}},
            id="map-is-entered",
        ),
        pytest.param(
            {"ring_hash_lb_config": {}}, "maglev_lb_config: {}", {"maglev_lb_config": {}}, id="one-of-is-exchanged"
        ),
        pytest.param({"type": "EDS"}, "type: STATIC", {"type": "STATIC"}, id="enum-to-its-default"),
    ],
)
def test_how_fields_merge(base: dict[str, Any], value: str, after: dict[str, Any]) -> None:
    assert merge(base, value) == after


def test_lists_are_replaced_when_asked_for() -> None:
    base = {"circuit_breakers": {"thresholds": [{"priority": "HIGH"}]}}
    after = merge(base, "circuit_breakers: {thresholds: [{max_retries: 1}]}", replace_lists=True)
    assert after == {"circuit_breakers": {"thresholds": [{"max_retries": 1}]}}


def test_what_is_packed_is_opened_where_the_types_are_the_same() -> None:
    base = {
        "typed_extension_protocol_options": {
            "a": {"@type": OPTIONS, "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}}}
        }
    }
    after = merge(
        base,
        f"typed_extension_protocol_options: {{a: {{'@type': {OPTIONS}, "
        "common_http_protocol_options: {idle_timeout: 3s}, "
        "explicit_http_config: {http2_protocol_options: {allow_connect: false}}}}",
    )
    assert after["typed_extension_protocol_options"]["a"] == {
        "@type": OPTIONS,
        "common_http_protocol_options": {"idle_timeout": "3s"},
        # Of maps' values it is not kept what was written out.
        "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}},
    }


def test_a_transport_socket_goes_into_the_one_that_endpoints_choose() -> None:
    built = build_outbound_cluster(cluster_input(auto_mtls=AutoMtls.PER_ENDPOINT))
    assert len(built.transport_socket_matches) == 2
    trace = Trace()
    after = patch_cluster(
        built,
        patches(
            "{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 7s, transport_socket: "
            "{name: envoy.transport_sockets.tls, typed_config: {'@type': type.googleapis.com/envoy.extensions."
            "transport_sockets.tls.v3.UpstreamTlsContext, sni: other.test}}}}}"
        ),
        trace,
        inbound=False,
    )
    assert after is not None
    assert not after.HasField("transport_socket")
    context = UpstreamTlsContext()
    assert after.transport_socket_matches[0].transport_socket.typed_config.Unpack(context)
    before = UpstreamTlsContext()
    built.transport_socket_matches[0].transport_socket.typed_config.Unpack(before)
    assert (context.sni, context.common_tls_context) == ("other.test", before.common_tls_context)
    assert after.transport_socket_matches[1] == built.transport_socket_matches[1]
    assert after.connect_timeout.seconds == 7
    assert built.connect_timeout.seconds == 10  # what others share is as it was


def test_a_transport_socket_of_another_name_replaces() -> None:
    tls = TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(UpstreamTlsContext(sni="a")))
    parsed = parse_value({"transport_socket": {"name": "envoy.transport_sockets.raw_buffer"}}, Cluster, "")
    after = merged(Cluster(transport_socket=tls), parsed, replace_lists=False)
    assert after.transport_socket == TransportSocket(name="envoy.transport_sockets.raw_buffer")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ("{conect_timeout: 1s}", ".conect_timeout", "did you mean connect_timeout?"),
        ("{connect_timeout: 5}", ".connect_timeout", 'a duration in seconds, such as "1.5s", got 5'),
        ("{name: 5}", ".name", "must be text, got 5"),
        ("{lb_policy: RING}", ".lb_policy", "must be a LbPolicy, got"),
        ("{name: a, alt_stat_name: [a]}", ".alt_stat_name", "must be text, got a list"),
        ("{connect_timeout: 1s, connectTimeout: 1s}", ".connectTimeout", "written twice"),
        ("{type: EDS, cluster_type: {name: a}}", ".cluster_type", "cannot stand beside type"),
        (
            "{load_assignment: {endpoints: [{lb_endpoints: [{x: 1}]}]}}",
            ".load_assignment.endpoints[0].lb_endpoints[0].x",
            "",
        ),
        ("{load_assignment: {endpoints: {}}}", ".load_assignment.endpoints", "must be a list, got a map"),
        ("{transport_socket: {typed_config: {sni: a}}}", ".transport_socket.typed_config", "must be"),
        (
            "{transport_socket: {typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
            "UpstreamTlsContext, sny: a}}}",
            ".transport_socket.typed_config.sny",
            "did you mean sni?",
        ),
        ("{per_connection_buffer_limit_bytes: -1}", ".per_connection_buffer_limit_bytes", "not negative, got -1"),
    ],
)
def test_a_value_that_is_no_message_is_told_at_its_place(value: str, path: str, words: str) -> None:
    with pytest.raises(ValueFault) as told:
        parse_value(yaml.safe_load(value), Cluster, "")
    assert told.value.path.startswith(path.removeprefix(".") if not told.value.path.startswith(".") else path)
    assert words in told.value.reason


def test_faults_of_values_are_told_by_file_and_line() -> None:
    text = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: f}
spec:
  configPatches:
  - applyTo: CLUSTER
    patch:
      operation: ADD
      value:
        name: a
        connect_timeout: soon
  - applyTo: CLUSTER
    patch: {operation: ADD, value: {type: STATIC}}
  - applyTo: HTTP_FILTER
    patch:
      operation: INSERT_FIRST
      value:
        name: a
  - applyTo: HTTP_FILTER
    patch:
      operation: INSERT_FIRST
      value:
        name: a
        typed_config:
          "@type": type.googleapis.com/envoy.filters.Unheard
          field: 1
"""
    (obj,) = decode_documents(text.encode(), "f.yaml").objects
    assert [(p.line, p.field, p.level) for p in patch_problems(obj)] == [
        (12, "spec.configPatches[0].patch.value.connect_timeout", "error"),
        (14, "spec.configPatches[1].patch.value.name", "error"),
        (18, "spec.configPatches[2].patch.value", "warning"),
        (26, "spec.configPatches[3].patch.value.typed_config[@type]", "warning"),
    ]


def test_patches_of_waypoints_are_refused() -> None:
    text = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: f}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: WAYPOINT, waypoint: {portNumber: 80, filter: {name: a, subFilter: {name: b}}, route: {name: r}}}
    patch: {operation: ADD, value: {name: a}}
"""
    (obj,) = decode_documents(text.encode(), "f.yaml").objects
    ((place, message),) = [(p.field, p.message) for p in patch_problems(obj) if p.level == "error"]
    assert place == "spec.configPatches[0].match.context"
    assert "no waypoints" in message


def test_an_unknown_type_is_passed_on_as_it_is() -> None:
    value = {
        "transport_socket": {"name": "a", "typed_config": {"@type": "type.googleapis.com/acme.v1.Thing", "x": [1, "y"]}}
    }
    parsed = parse_value(value, Cluster, "")
    packed = parsed.message.transport_socket.typed_config
    assert packed.type_url == f"{TYPE_PREFIX}xds.type.v3.TypedStruct"
    assert MessageToDict(parsed.message)["transportSocket"]["typedConfig"] == {
        "@type": packed.type_url,
        "typeUrl": "type.googleapis.com/acme.v1.Thing",
        "value": {"x": [1.0, "y"]},
    }


def test_a_typed_struct_of_a_known_type_is_that_type_unless_it_says_more() -> None:
    def config(value: dict[str, Any]) -> Any:
        typed = {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": OPTIONS,
            "value": value,
        }
        return parse_value({"typed_extension_protocol_options": {OPTIONS_KEY: typed}}, Cluster, "").message

    known = config({"common_http_protocol_options": {"idle_timeout": "3s"}})
    assert known.typed_extension_protocol_options[OPTIONS_KEY].Is(HttpProtocolOptions.DESCRIPTOR)
    newer = config({"field_of_tomorrow": 1})
    assert newer.typed_extension_protocol_options[OPTIONS_KEY].type_url.endswith("TypedStruct")


@pytest.mark.parametrize(
    "name", ["os.path", "lateen.pilot.Thing", "envoy..Lua", "envoy._bin.Envoy", "", "envoy.Nothing"]
)
def test_names_of_types_import_nothing_but_messages(name: str) -> None:
    assert message_class(name) is None


# ---------------------------------------------------------------- where patches act


CHAINS: dict[str, dict[str, Any]] = {
    "tls": {
        "transport_protocol": "tls",
        "server_names": ["a.test", "b.test"],
        "application_protocols": ["h2", "http/1.1"],
    },
    "raw": {"transport_protocol": "raw_buffer", "destination_port": 9000},
    "any": {},
}


@pytest.mark.parametrize(
    ("match", "chains"),
    [
        ("{sni: b.test}", ["tls"]),
        ("{transportProtocol: tls}", ["tls"]),
        ("{applicationProtocols: 'http/1.1, h2'}", ["tls"]),
        ("{applicationProtocols: 'h2,h3'}", []),
        ("{destinationPort: 9000}", ["raw"]),
        ("{destinationPort: 9000, transportProtocol: tls}", []),
        ("{name: any}", ["any"]),
        ("{}", ["tls", "raw", "any"]),
    ],
)
def test_filter_chains_are_told_apart(match: str, chains: list[str]) -> None:
    listener = ParseDict(
        {"name": "l", "filter_chains": [{"name": name, "filter_chain_match": one} for name, one in CHAINS.items()]},
        Listener(),
    )
    patch = f"{{applyTo: FILTER_CHAIN, match: {{listener: {{filterChain: {match}}}}}, patch: {{operation: REMOVE}}}}"
    trace = Trace()
    after = patch_listener(listener, patches(patch), trace)
    assert after is not None
    assert [chain.name for chain in after.filter_chains] == [name for name in CHAINS if name not in chains]
    assert (trace.mark("l") is not None) == bool(chains)
    assert len(listener.filter_chains) == 3


NETWORK = ("tls_inspector", "first", "second", "second")


@pytest.mark.parametrize(
    ("operation", "name", "after"),
    [
        ("ADD", "", "first second second new"),
        ("INSERT_FIRST", "", "new first second second"),
        ("INSERT_BEFORE", "", "new first second second"),
        ("INSERT_AFTER", "", "first second second new"),
        ("INSERT_BEFORE", "second", "first new second second"),
        ("INSERT_AFTER", "second", "first second new second"),
        ("INSERT_AFTER", "absent", "first second second"),
        ("REPLACE", "second", "first new second"),
        ("REPLACE", "absent", "first second second"),
        ("REMOVE", "second", "first"),
        ("REMOVE", "absent", "first second second"),
    ],
)
@pytest.mark.parametrize("level", ["LISTENER_FILTER", "NETWORK_FILTER"])
def test_where_a_filter_goes(level: str, operation: str, name: str, after: str) -> None:
    filters = [{"name": one} for one in ("first", "second", "second")]
    listener = ParseDict(
        {"name": "l", "listener_filters": filters, "filter_chains": [{"filters": filters}]}, Listener()
    )
    named = f"listenerFilter: {name}" if level == "LISTENER_FILTER" else f"filterChain: {{filter: {{name: {name}}}}}"
    match = f"{{listener: {{{named if name else ''}}}}}"
    text = f"{{applyTo: {level}, match: {match}, patch: {{operation: {operation}, value: {{name: new}}}}}}"
    result = patch_listener(listener, patches(text), Trace())
    assert result is not None
    found = result.listener_filters if level == "LISTENER_FILTER" else result.filter_chains[0].filters
    assert " ".join(one.name for one in found) == after


def test_what_is_added_goes_before_the_filter_that_must_be_last() -> None:
    tcp = {
        "name": "tcp",
        "typed_config": {"@type": f"{TYPE_PREFIX}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"},
    }
    message_class("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy")
    listener = ParseDict({"name": "l", "filter_chains": [{"filters": [tcp]}]}, Listener())
    text = "{applyTo: NETWORK_FILTER, patch: {operation: ADD, value: {name: new}}}"
    result = patch_listener(listener, patches(text), Trace())
    assert result is not None
    assert [one.name for one in result.filter_chains[0].filters] == ["new", "tcp"]


def test_a_merge_reaches_what_an_earlier_or_later_patch_puts_in() -> None:
    listener = ParseDict({"name": "l", "filter_chains": [{}]}, Listener())
    inspector = f"{TYPE_PREFIX}envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    texts = (
        "{applyTo: LISTENER_FILTER, match: {listener: {listenerFilter: a}}, patch: {operation: MERGE, value: "
        f"{{name: a, typed_config: {{'@type': {inspector}, initial_read_buffer_size: 600}}}}}}}}",
        "{applyTo: LISTENER_FILTER, patch: {operation: ADD, value: "
        f"{{name: a, typed_config: {{'@type': {inspector}, "
        "close_connection_on_client_hello_parsing_errors: true}}}}",
    )
    result = patch_listener(listener, patches(*texts), Trace())
    assert result is not None
    (found,) = MessageToDict(result, preserving_proto_field_name=True)["listener_filters"]
    assert found["typed_config"] == {
        "@type": inspector,
        "initial_read_buffer_size": 600,
        "close_connection_on_client_hello_parsing_errors": True,
    }
