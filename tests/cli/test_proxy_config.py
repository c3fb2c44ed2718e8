"""`lateen proxy-config`, asked of a real Envoy, and its tables on what that one does not show."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from lateen.cli import main
from lateen.cli.proxy_config import PARTS
from lateen.cli.tables_dump import REDACTED, read_dump, redact
from lateen.cli.tables_listeners import address_text, listener_rows, match_text, route_match_text
from lateen.cli.tables_proxy import bootstrap_rows, cluster_rows, endpoint_rows, route_rows, secret_rows
from lateen.settings import Settings

State = tuple[Settings, str]
REVIEWS = "outbound|9080|v3|reviews.default.svc.cluster.local"


def _show(state: State, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["proxy-config", words[0], "reviews-v3", "--state", str(state[0].state), *words[1:]]) == 0
    return capsys.readouterr().out


def _cells(text: str) -> list[list[str]]:
    """Return the cells of a table whose columns are two spaces or more apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


@pytest.mark.envoy
def test_clusters(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cells(_show(envoy_state, capsys, "clusters")) == [
        ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"],
        ["BlackHoleCluster", "-", "-", "-", "STATIC"],
        ["-", "9080", "-", "inbound", "STATIC"],
        ["reviews.default.svc.cluster.local", "9080", "v3", "outbound", "STATIC", "reviews.default"],
    ]
    filtered = _cells(_show(envoy_state, capsys, "c", "--fqdn", "reviews", "--port", "9080"))
    assert [row[0] for row in filtered[1:]] == ["reviews.default.svc.cluster.local"]


@pytest.mark.envoy
def test_listeners(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cells(_show(envoy_state, capsys, "listeners")) == [
        ["ADDRESSES", "PORT", "MATCH", "DESTINATION"],
        [
            "10.96.0.7",
            "9080",
            "ALL",
            "Inline Route: reviews,reviews.default,reviews:9080,reviews.default.svc.cluster.local,10.96.0.7 "
            "/reviews*, /*; empty.default",
        ],
        ["0.0.0.0", "15006", "Addr: *:15006", "BlackHoleCluster"],
        ["0.0.0.0", "15006", "Trans: tls; App: TCP TLS", "BlackHoleCluster"],
        ["0.0.0.0", "15006", "ALL", "Cluster: inbound|9080||"],
    ]
    assert len(_cells(_show(envoy_state, capsys, "listeners", "--port", "9080"))) == 2
    assert len(_cells(_show(envoy_state, capsys, "listeners", "--name", "virtual"))) == 4


@pytest.mark.envoy
def test_routes(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    host = "reviews.default.svc.cluster.local:9080"
    assert _cells(_show(envoy_state, capsys, "routes")) == [
        ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"],
        ["9080", host, "reviews, 10.96.0.7", "/reviews*", "reviews.default"],
        ["9080", host, "reviews, 10.96.0.7", "/*"],
        ["9080", "empty", "empty.default", "/*", "404"],
        ["inbound|9080||", "inbound|http|9080", "*", "/*"],
    ]
    assert len(_cells(_show(envoy_state, capsys, "routes", "--name", "9080", "--fqdn", "empty"))) == 2
    assert len(_cells(_show(envoy_state, capsys, "routes", "--port", "8080"))) == 1


@pytest.mark.envoy
def test_endpoints(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cells(_show(envoy_state, capsys, "endpoints")) == [
        ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"],
        ["10.77.0.9:9080", "HEALTHY", "OK", REVIEWS],
        ["10.77.0.9:9081", "UNHEALTHY", "OK", REVIEWS],
    ]
    assert len(_cells(_show(envoy_state, capsys, "endpoints", "--port", "9081"))) == 2


@pytest.mark.envoy
def test_secrets(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _cells(_show(envoy_state, capsys, "secrets"))
    assert rows[0] == ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"]
    assert [row[:5] for row in rows[1:]] == [
        ["ROOTCA", "CA", "ACTIVE", "true", f"{0xDEF:032x}"],
        ["default", "Cert Chain", "ACTIVE", "true", f"{0xABC:032x}"],
    ]
    ends = datetime.fromisoformat(rows[1][5])
    assert (ends - datetime.now(UTC)).total_seconds() == pytest.approx(86400, abs=600)


@pytest.mark.envoy
def test_bootstrap(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _cells(_show(envoy_state, capsys, "bootstrap"))
    assert ["node", "sidecar~10.77.0.5~reviews-v3.default~default.svc.cluster.local"] in rows
    assert ["envoy", "1.40.0"] in rows
    assert ["metadata LABELS", "app=reviews"] in rows


@pytest.mark.envoy
@pytest.mark.parametrize("part", [*PARTS, "all"])
@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_no_form_shows_a_private_key(
    envoy_state: State, capsys: pytest.CaptureFixture[str], part: str, form: str
) -> None:
    shown = _show(envoy_state, capsys, part, "-o", form)
    body = envoy_state[1].splitlines()[1]
    assert len(body) == 64
    assert body not in shown
    assert "PRIVATE KEY" not in shown


@pytest.mark.envoy
def test_json_and_yaml_hold_what_envoy_holds(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    everything = json.loads(_show(envoy_state, capsys, "all", "-o", "json"))
    assert tuple(everything) == PARTS
    assert {cluster["name"] for cluster in everything["clusters"]} == {REVIEWS, "inbound|9080||", "BlackHoleCluster"}
    assert [config["name"] for config in everything["routes"]] == ["9080", "inbound|9080||"]
    assert [secret["name"] for secret in everything["secrets"]] == ["ROOTCA", "default"]
    assert everything["secrets"][1]["secret"]["tls_certificate"]["private_key"] == REDACTED
    clusters = yaml.safe_load(_show(envoy_state, capsys, "clusters", "-o", "yaml", "--fqdn", "reviews"))
    assert [cluster["name"] for cluster in clusters] == [REVIEWS]


@pytest.mark.envoy
def test_all_has_a_title_for_each_part(envoy_state: State, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _show(envoy_state, capsys, "all").splitlines()
    assert [line for line in lines if line.lower() in PARTS] == [part.upper() for part in PARTS]


@pytest.mark.envoy
def test_a_workload_that_is_not_there_names_those_that_are(
    envoy_state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["proxy-config", "clusters", "reviews-v9", "--state", str(envoy_state[0].state)]) == 1
    error = capsys.readouterr().err
    assert "'reviews-v9'" in error
    assert "there are: reviews-v3" in error


def test_a_part_that_is_none_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["proxy-config", "lustres", "reviews-v3"])
    assert end.value.code == 64
    assert "listeners" in capsys.readouterr().err


def _part(name: str, **fields: Any) -> dict[str, Any]:
    return {"configs": [{"@type": f"type.googleapis.com/envoy.admin.v3.{name}", **fields}]}


def test_warming_and_refused_resources_are_told() -> None:
    clusters = _part(
        "ClustersConfigDump",
        dynamic_active_clusters=[{"cluster": {"name": "a"}}],
        dynamic_warming_clusters=[{"cluster": {"name": "a"}}, {"cluster": {"name": "b"}}],
    )
    dump = read_dump(clusters)
    assert [cluster["name"] for cluster in dump.clusters] == ["a", "b"]
    assert [(note.name, note.text) for note in dump.notes] == [
        ("a", "a newer version is warming"),
        ("b", "is warming: not in use yet"),
    ]
    listeners = _part(
        "ListenersConfigDump",
        dynamic_listeners=[
            {
                "name": "l",
                "active_state": {"listener": {"name": "l"}},
                "error_state": {"details": "no such filter"},
            },
            {"name": "m", "draining_state": {"listener": {"name": "m"}}},
        ],
    )
    dump = read_dump(listeners)
    assert [listener["name"] for listener in dump.listeners] == ["l"]
    assert [(note.name, note.text) for note in dump.notes] == [
        ("l", "was refused: no such filter"),
        ("m", "is draining"),
    ]


def test_an_empty_dump_is_an_empty_proxy() -> None:
    dump = read_dump({})
    assert (dump.bootstrap, dump.clusters, dump.listeners, dump.routes, dump.secrets) == ({}, (), (), (), ())


def test_redacting_reaches_every_depth_and_copies() -> None:
    value = {"a": [{"private_key": {"inline_string": "x"}, "b": 1}], "password": "y"}
    assert redact(value) == {"a": [{"private_key": REDACTED, "b": 1}], "password": REDACTED}
    assert value["password"] == "y"


@pytest.mark.parametrize(
    ("match", "text"),
    [
        pytest.param({}, "ALL", id="everything"),
        pytest.param({"server_names": ["a.com", "b.com"]}, "SNI: a.com,b.com", id="sni"),
        pytest.param(
            {"transport_protocol": "raw_buffer", "application_protocols": ["h2c", "http/1.1"]},
            "Trans: raw_buffer; App: HTTP",
            id="plain-http",
        ),
        pytest.param({"application_protocols": ["foo", "bar"]}, "App: foo,bar", id="unnamed-protocols"),
        pytest.param(
            {"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}], "destination_port": 80},
            "Addr: 10.0.0.0/8:80",
            id="range-and-port",
        ),
    ],
)
def test_what_a_filter_chain_takes(match: dict[str, Any], text: str) -> None:
    assert match_text(match) == text


@pytest.mark.parametrize(
    ("match", "text"),
    [
        ({"prefix": "/"}, "/*"),
        ({"path": "/a"}, "/a"),
        ({"path_separated_prefix": "/a"}, "PathPrefix:/a"),
        ({"safe_regex": {"regex": "/a.*"}}, "regex /a.*"),
        ({"connect_matcher": {}}, "-"),
    ],
)
def test_what_a_route_matches(match: dict[str, Any], text: str) -> None:
    assert route_match_text(match) == text


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ({"socket_address": {"address": "10.0.0.1", "port_value": 80}}, "10.0.0.1:80"),
        ({"pipe": {"path": "/x.sock"}}, "unix:///x.sock"),
        ({"envoy_internal_address": {"server_listener_name": "l", "endpoint_id": "e"}}, "envoy://l/e"),
        ({}, "-"),
    ],
)
def test_addresses(address: dict[str, Any], text: str) -> None:
    assert address_text(address) == text


def test_where_chains_lead() -> None:
    manager = {"@type": "x.HttpConnectionManager", "rds": {"route_config_name": "9080"}}
    weighted = {"@type": "x.TcpProxy", "weighted_clusters": {"clusters": [{"name": "a", "weight": 9}]}}
    chains = [{"filters": [{"typed_config": config}]} for config in (manager, weighted, {"@type": "x.Echo"})]
    listener = {
        "name": "l",
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
        "additional_addresses": [{"address": {"socket_address": {"address": "fd00::1", "port_value": 80}}}],
        "filter_chains": chains,
    }
    rows = listener_rows([listener])
    assert [row[3] for row in rows] == ["Route: 9080", "Cluster: a (9)", "Non-HTTP/Non-TCP"]
    assert {row[:2] for row in rows} == {("10.0.0.1,fd00::1", "80")}


def test_a_listener_on_several_ports_shows_each_and_is_found_by_each() -> None:
    extra = [{"address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}}}]
    listener = {
        "name": "0.0.0.0_8080",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 8080}},
        "additional_addresses": extra,
        "filter_chains": [{"filters": []}],
    }
    assert [row[:2] for row in listener_rows([listener])] == [("0.0.0.0", "8080,80")]
    assert [len(listener_rows([listener], port=port)) for port in (80, 8080, 443)] == [1, 1, 0]


def test_many_domains_are_counted_not_listed() -> None:
    config = {"name": "80", "virtual_hosts": [{"name": "v", "domains": ["c", "a", "b:80", "b", "a.default"]}]}
    assert [row[2] for row in route_rows([config])] == ["a, b + 1 more..."]


def test_equal_routes_of_several_chains_are_one_row() -> None:
    host = {"name": "inbound|http|80", "domains": ["*"], "routes": [{"match": {"prefix": "/"}}]}
    config = {"name": "inbound|80||", "virtual_hosts": [host]}
    assert route_rows([config, config]) == [("inbound|80||", "inbound|http|80", "*", "/*", "")]


def test_discovery_types_and_health() -> None:
    dns = {"name": "outbound|80||a.com", "cluster_type": {"name": "envoy.cluster.dns"}}
    assert cluster_rows([dns]) == [("a.com", "80", "-", "outbound", "envoy.cluster.dns", "")]
    ejected = {
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 1}},
        "health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": True},
    }
    probed = {"address": {"pipe": {"path": "/s"}}, "health_status": {"failed_active_health_check": True}}
    statuses = [{"name": "x", "host_statuses": [ejected, probed]}]
    assert endpoint_rows(statuses) == [
        ("10.0.0.1:1", "HEALTHY", "FAILED", "x"),
        ("unix:///s", "UNHEALTHY", "OK", "x"),
    ]


def test_a_secret_that_has_not_come_is_shown_as_waiting() -> None:
    dump = read_dump(_part("SecretsConfigDump", dynamic_warming_secrets=[{"name": "default", "secret": {}}]))
    assert secret_rows(dump.secrets, datetime.now(UTC)) == [("default", "-", "WARMING", "-", "-", "-", "-")]


def test_a_secret_with_a_broken_certificate_is_shown_without_one() -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    secret = {"validation_context": {"trusted_ca": {"inline_string": broken}}}
    dump = read_dump(_part("SecretsConfigDump", static_secrets=[{"name": "R", "secret": secret}]))
    assert secret_rows(dump.secrets, datetime.now(UTC)) == [("R", "CA", "ACTIVE", "-", "-", "-", "-")]


def test_a_bare_bootstrap() -> None:
    assert dict(bootstrap_rows({}))["envoy"] == "-"
