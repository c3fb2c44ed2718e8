"""Series that Envoy counts with few labels, as they are told."""

from __future__ import annotations

import re
from collections.abc import Callable

from lateen.agent.scraping import MAX_BODY_BYTES as OF_APPLICATION
from lateen.agent.standard_metrics import complete, series_of
from lateen.wire.label_text import KNOWN, LABELS, SEPARATOR, SERVICE, UNLISTED, fields_of, labels_format, pack_service
from lateen.wire.peer_env import LEFT_OUT, PEER_ORDER, pack_peer, peer_fields, unpack_peer
from lateen.wire.series import MAX_COUNTERS, MAX_HISTOGRAMS, MAX_HOST, MAX_SCRAPE_BYTES, MAX_TOLD_BYTES

OWN = peer_fields(workload="web-v1", namespace="shop", cluster="c1", labels={"app": "web", "version": "v1"})
THEIRS = peer_fields(workload="db-v2", namespace="data", cluster="c2", labels={"app": "db", "version": "v2"})
PRINCIPAL = "spiffe://cluster.local/ns/data/sa/db"


OTHERS = 2 << 20  # what else Envoy counts
LONGEST_TEXT = labels_format(
    {
        "reporter": "source",
        "request_protocol": "http",
        "connection_security_policy": "mutual_tls",
        "response_code": "200",
        "response_flags": "-",
        SERVICE: KNOWN + pack_service(host="h" * MAX_HOST, name="n" * 63, namespace="n" * 63),
        "peer": ";".join(["x" * 72] * 7),
        "source_principal": "p" * 150,
        "destination_principal": "p" * 150,
    }
)
LONGEST = f'{LABELS}="{LONGEST_TEXT}"'  # a sample with labels as long as they may be
CLIENTS = {  # what a client counts
    "reporter": "source",
    "request_protocol": "http",
    "connection_security_policy": "unknown",
    "response_code": "200",
    "response_flags": "-",
    SERVICE: KNOWN + pack_service(host="db.data.svc.cluster.local", name="db", namespace="data"),
    "peer": pack_peer(THEIRS),
    "source_principal": "spiffe://cluster.local/ns/shop/sa/web",
    "destination_principal": PRINCIPAL,
}
SERVERS = {**CLIENTS, "reporter": "destination", "connection_security_policy": "mutual_tls"}


def told(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Return the samples that `complete` makes of a text."""
    found = []
    for line in complete(text.encode(), OWN).decode().splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("} ")
            found.append((name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)), float(value)))
    return found


def side(prefix: str, fields: dict[str, str]) -> dict[str, str]:
    return {f"{prefix}_{name}": value for name, value in fields.items()}


def test_what_a_client_counts_has_its_own_labels_and_the_servers() -> None:
    line = (
        f'envoy_istio_requests_total{{reporter="source",peer="{pack_peer(THEIRS)}",destination_service="db.data",'
        f'destination_principal="{PRINCIPAL}",response_code="200",grpc_response_status=""}} 3\n'
    )
    ((name, labels, value),) = told(line)
    assert (name, value) == ("istio_requests_total", 3)
    assert labels == {
        **side("source", OWN),
        **side("destination", THEIRS),
        "reporter": "source",
        "source_principal": "unknown",
        "destination_principal": PRINCIPAL,
        "destination_service": "db.data",
        "destination_service_name": "unknown",
        "destination_service_namespace": "data",  # of the workload, where the service has none
        "response_code": "200",
        "grpc_response_status": "",
    }


def counted(fields: dict[str, str], *others: str) -> dict[str, str]:
    """Return the labels that are told of a series with the text of some fields, and other labels of Envoy's."""
    text = f'{LABELS}="{labels_format(fields)}"'
    ((_, labels, _),) = told(f"envoy_istio_requests_total{{{','.join((*others, text))}}} 1")
    return labels


def test_labels_that_come_as_one_text_are_told_one_by_one() -> None:
    same = {
        name: value for name, value in CLIENTS.items() if name not in ("reporter", SERVICE, "peer", "source_principal")
    }
    same |= {
        "source_principal": CLIENTS["source_principal"],
        "destination_service": "db.data.svc.cluster.local",
        "destination_service_name": "db",
        "destination_service_namespace": "data",
    }
    assert counted(CLIENTS) == {**same, **side("source", OWN), **side("destination", THEIRS), "reporter": "source"}
    assert counted(SERVERS) == {
        **same,
        **side("source", THEIRS),
        **side("destination", OWN),
        "reporter": "destination",
        "connection_security_policy": "mutual_tls",
    }
    grpc = {**CLIENTS, "request_protocol": "grpc", "grpc_response_status": "7"}
    assert counted(grpc) == counted(CLIENTS) | {"request_protocol": "grpc", "grpc_response_status": "7"}
    bytes_only = {name: CLIENTS[name] for name in ("reporter", SERVICE)}
    assert {"response_code", "response_flags", "grpc_response_status"}.isdisjoint(counted(bytes_only))
    assert counted(bytes_only)["destination_principal"] == "unknown"


def test_what_a_request_calls_a_service_is_its_host_and_nothing_else() -> None:
    for host in ("outside.test", "outside.test|bank|secret", ";|;", "", "a.test" + "x" * 249):
        labels = counted({**CLIENTS, SERVICE: host, UNLISTED: "PassthroughCluster", "peer": ""})
        assert labels["destination_service"] == (host or "unknown")
        assert labels["destination_service_name"] == "PassthroughCluster"
        assert labels["destination_service_namespace"] == "unknown"
    nowhere = counted({**CLIENTS, SERVICE: "outside.test"})
    assert nowhere["destination_service_name"] == "unknown"
    stands_for_all = counted({**SERVERS, SERVICE: KNOWN + pack_service(host="", name="Any", namespace="")})
    assert stands_for_all["destination_service_name"] == "Any"
    assert counted({**SERVERS, SERVICE: KNOWN})["destination_service_name"] == "unknown"


def test_a_name_in_a_certificate_that_holds_the_separator_changes_only_what_its_owner_says() -> None:
    strange = f"spiffe://other/ns/a{SEPARATOR}x{SEPARATOR}y{SEPARATOR}z{SEPARATOR}{KNOWN}h|bank|b"
    client = counted({**CLIENTS, "destination_principal": strange})
    assert client == counted(CLIENTS) | {"destination_principal": strange}
    server = counted({**SERVERS, "source_principal": strange})
    kept = {name: value for name, value in counted(SERVERS).items() if not name.startswith("source_")}
    assert server.items() >= kept.items()
    assert server["source_principal"] == "spiffe://other/ns/a"
    assert {name for name in server if name.startswith("source_")} == {
        "source_principal",
        *(f"source_{name}" for name in PEER_ORDER),
    }


def test_a_text_that_nobody_writes_tells_nothing() -> None:
    for text in ("", "x", f"sink{SEPARATOR}http", SEPARATOR * 20):
        assert fields_of(text) == {}
    assert fields_of("source") == {"reporter": "source"}


def test_what_a_telemetry_says_stands_before_the_text() -> None:
    labels = counted(CLIENTS, 'destination_service="all"', f'reporter="{LEFT_OUT}"', 'verb="GET"')
    assert labels["destination_service"] == "all"
    assert labels["verb"] == "GET"
    assert labels["source_workload"] == OWN["workload"]  # whose it is the text alone says
    assert "reporter" not in labels


def test_what_a_server_counts_of_a_client_that_says_nothing() -> None:
    """Only a certificate proves where it is from."""
    ((_, labels, _),) = told(
        f'envoy_istio_tcp_sent_bytes_total{{reporter="destination",source_principal="{PRINCIPAL}"}} 1'
    )
    assert labels.items() >= side("destination", OWN).items()
    assert (
        labels.items()
        >= {**side("source", dict.fromkeys(PEER_ORDER, "unknown")), "source_workload_namespace": "data"}.items()
    )
    ((_, labels, _),) = told('envoy_istio_tcp_sent_bytes_total{reporter="destination"} 1')
    assert labels["source_workload_namespace"] == "unknown"


def test_what_a_client_says_of_itself_stands_before_its_certificate() -> None:
    peer = pack_peer({**THEIRS, "workload_namespace": "elsewhere"})
    ((_, labels, _),) = told(
        f'envoy_istio_requests_total{{reporter="destination",source_principal="{PRINCIPAL}",peer="{peer}"}} 1'
    )
    assert labels["source_workload_namespace"] == "elsewhere"
    assert labels["source_principal"] == PRINCIPAL


def test_series_that_become_one_are_added() -> None:
    text = (
        "# TYPE envoy_istio_requests_total counter\n"
        'envoy_istio_requests_total{reporter="source",peer=""} 3\n'
        'envoy_istio_requests_total{reporter="source"} 4\n'
        'envoy_istio_requests_total{reporter="source",peer="x"} 5\n'
        "# TYPE envoy_istio_request_bytes histogram\n"
        'envoy_istio_request_bytes_bucket{reporter="source",peer="",le="1"} 1\n'
        'envoy_istio_request_bytes_bucket{reporter="source",peer="",le="+Inf"} 2\n'
        'envoy_istio_request_bytes_bucket{reporter="source",le="1"} 10\n'
        'envoy_istio_request_bytes_bucket{reporter="source",le="+Inf"} 20\n'
    )
    samples = [(name, labels.get("le"), value) for name, labels, value in told(text)]
    assert samples == [
        ("istio_requests_total", None, 7),
        ("istio_requests_total", None, 5),
        ("istio_request_bytes_bucket", "1", 11),
        ("istio_request_bytes_bucket", "+Inf", 22),
    ]
    assert complete(text.encode(), OWN).startswith(b"# TYPE istio_requests_total counter\nistio_requests_total{")


def test_a_label_that_is_given_or_left_out_by_a_telemetry_stays_so() -> None:
    ((_, labels, _),) = told(
        f'envoy_istio_requests_total{{reporter="source",source_app="mine",source_version="{LEFT_OUT}",verb="GET"}} 1'
    )
    assert labels["source_app"] == "mine"
    assert labels["verb"] == "GET"
    assert "source_version" not in labels


def test_other_families_are_left_alone() -> None:
    text = (
        "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\nother_envoy_istio_x 1\n"
        '# TYPE envoy_istio_orders counter\nenvoy_istio_orders{path="envoy_istio_x, {\\"}"} 1\n'
    )
    assert complete(text.encode(), OWN).decode() == text.replace("TYPE envoy_istio", "TYPE istio").replace(
        "\nenvoy_istio", "\nistio"
    )


def test_a_value_may_hold_anything() -> None:
    ((_, labels, _),) = told('envoy_istio_requests_total{reporter="source",path="a,le=\\"b}\\" 1",x="\\\\"} 2')
    assert labels["path"] == 'a,le=\\"b}\\" 1'
    assert labels["x"] == "\\\\"


def test_a_peers_text_is_what_it_was_made_of() -> None:
    assert unpack_peer(pack_peer(THEIRS)) == THEIRS
    assert set(unpack_peer("").values()) == {"unknown"}
    assert unpack_peer("w;n")["workload_namespace"] == "n"
    # Nothing that a label holds can end a field, or a header.
    assert unpack_peer(pack_peer({**THEIRS, "app": "a;b\r\nc é"})) == {**THEIRS, "app": "a_b__c__"}


def test_a_scrape_of_all_series_at_their_longest_is_what_its_readers_take() -> None:
    counter = f"envoy_istio_requests_total{{{LONGEST}}} 1000\n"
    histogram = "".join(
        f'envoy_istio_request_bytes_bucket{{{LONGEST},le="{bucket}"}} 1000\n' for bucket in range(1_000_000, 1_000_020)
    )
    histogram += "".join(f"envoy_istio_request_bytes_{part}{{{LONGEST}}} 1000\n" for part in ("sum", "count"))
    assert series_of((counter + histogram).encode()) == {"counter": 1, "histogram": 1}

    def weight(read: Callable[[str], int]) -> int:
        return MAX_COUNTERS * read(counter) + MAX_HISTOGRAMS * read(histogram)

    assert weight(len) + OTHERS < MAX_SCRAPE_BYTES
    assert weight(lambda text: len(complete(text.encode(), OWN))) + OTHERS + OF_APPLICATION < MAX_TOLD_BYTES
