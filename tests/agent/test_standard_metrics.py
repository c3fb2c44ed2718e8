"""Series that Envoy counts with few labels, as they are told."""

from __future__ import annotations

import re
from collections.abc import Callable

from lateen.agent.scraping import MAX_BODY_BYTES as OF_APPLICATION
from lateen.agent.standard_metrics import complete, series_of
from lateen.wire.peer_env import LEFT_OUT, PEER_ORDER, pack_peer, peer_fields, unpack_peer
from lateen.wire.series import MAX_COUNTERS, MAX_HISTOGRAMS, MAX_HOST, MAX_SCRAPE_BYTES, MAX_TOLD_BYTES

OWN = peer_fields(workload="web-v1", namespace="shop", cluster="c1", labels={"app": "web", "version": "v1"})
THEIRS = peer_fields(workload="db-v2", namespace="data", cluster="c2", labels={"app": "db", "version": "v2"})
PRINCIPAL = "spiffe://cluster.local/ns/data/sa/db"


OTHERS = 2 << 20  # what else Envoy counts
LONGEST = (  # a sample with labels as long as they may be
    f'connection_security_policy="mutual_tls",destination_principal="{"p" * 150}",'
    f'destination_service="{"h" * MAX_HOST}",destination_service_name="{"n" * 63}",'
    f'destination_service_namespace="{"n" * 63}",peer="{";".join(["x" * 72] * 7)}",'
    f'reporter="source",request_protocol="http",response_code="200",response_flags="-",source_principal="{"p" * 150}"'
)


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
