"""The numbers of the live table, from metrics as the proxies write them."""

from __future__ import annotations

import pytest

from lateen.observe.edges import Edge, edges_between, parse_metrics, quantile, total


def lines(requests: int, failed: int = 0, policy: str = "mutual_tls") -> str:
    edge = 'source_workload="productpage-v1",destination_workload="reviews-v3"'
    return "\n".join(
        [
            "# TYPE istio_requests_total counter",
            f'istio_requests_total{{reporter="source",{edge},response_code="200"}} {requests - failed}',
            f'istio_requests_total{{reporter="source",{edge},response_code="503"}} {failed}',
            f'istio_requests_total{{reporter="destination",{edge},connection_security_policy="{policy}"}} {requests}',
            f'istio_request_duration_milliseconds_bucket{{reporter="source",{edge},le="5"}} {requests // 2}',
            f'istio_request_duration_milliseconds_bucket{{reporter="source",{edge},le="10"}} {requests}',
            f'istio_request_duration_milliseconds_bucket{{reporter="source",{edge},le="+Inf"}} {requests}',
            "envoy_server_live{} 1",
        ]
    )


def test_an_edge_over_an_interval() -> None:
    before, now = total(parse_metrics(lines(100))), total(parse_metrics(lines(120, failed=5)))
    assert edges_between(before, now, 2.0) == [
        Edge(
            source="productpage-v1",
            destination="reviews-v3",
            protocol="http",
            requests=120.0,
            requests_per_second=10.0,
            success_ratio=0.75,
            refused=0.0,
            p50_ms=5.0,
            p90_ms=pytest.approx(9.0),
            p99_ms=pytest.approx(9.9),
            bytes_per_second=0.0,
            mutual_tls=True,
        )
    ]


def test_what_never_arrived_shows_only_while_it_happens() -> None:
    text = (
        'istio_requests_total{reporter="source",source_workload="a",destination_service_name="b",response_code="503"} 3'
    )
    now = total(parse_metrics(text))
    (edge,) = edges_between({}, now, 1.0)
    assert (edge.destination, edge.success_ratio, edge.mutual_tls) == ("b", 0.0, None)
    assert edges_between(now, now, 1.0) == []


def test_plain_text_shows() -> None:
    (edge,) = edges_between({}, total(parse_metrics(lines(10, policy="none"))), 1.0)
    assert edge.mutual_tls is False


def test_connections_of_bytes_are_edges() -> None:
    edge = 'source_workload="shop-v1",destination_workload="mysql-v1"'

    def text(connections: int, octets: int) -> str:
        return "\n".join(
            f'{name}{{reporter="{reporter}",{edge},connection_security_policy="mutual_tls"}} {value}'
            for reporter in ("source", "destination")
            for name, value in (
                ("istio_tcp_connections_opened_total", connections),
                ("istio_tcp_sent_bytes_total", octets),
                ("istio_tcp_received_bytes_total", octets),
            )
        )

    before, now = total(parse_metrics(text(1, 1000))), total(parse_metrics(text(5, 3000)))
    (found,) = edges_between(before, now, 2.0)
    assert (found.protocol, found.requests, found.requests_per_second) == ("tcp", 5.0, 2.0)
    assert (found.bytes_per_second, found.mutual_tls, found.p50_ms) == (2000.0, True, None)


def test_a_client_without_proxy_is_told_of_by_the_server() -> None:
    def text(count: int) -> str:
        labels = 'reporter="destination",source_workload="unknown",destination_workload="web-v1",response_code="200"'
        return f'istio_requests_total{{{labels},connection_security_policy="none"}} {count}'

    (edge,) = edges_between(total(parse_metrics(text(4))), total(parse_metrics(text(10))), 2.0)
    assert (edge.source, edge.requests, edge.requests_per_second, edge.mutual_tls) == ("unknown", 10.0, 3.0, False)


def test_a_quiet_edge_keeps_its_last_times() -> None:
    now = total(parse_metrics(lines(100)))
    (edge,) = edges_between(now, now, 1.0)
    assert (edge.requests_per_second, edge.success_ratio, edge.p50_ms) == (0.0, 1.0, 5.0)


def test_an_edge_whose_client_started_again_is_quiet_until_it_counts() -> None:
    edge = 'source_workload="productpage-v1",destination_workload="reviews-v3"'
    line = f'istio_requests_total{{reporter="destination",{edge},connection_security_policy="mutual_tls"}} 100'
    (quiet,) = edges_between(total(parse_metrics(lines(100))), total(parse_metrics(line)), 1.0)
    assert (quiet.requests_per_second, quiet.success_ratio, quiet.mutual_tls) == (0.0, 1.0, True)


@pytest.mark.parametrize(
    ("buckets", "ratio", "wanted"),
    [
        pytest.param({}, 0.5, None, id="nothing"),
        pytest.param({1.0: 0.0, float("inf"): 0.0}, 0.5, None, id="nothing counted"),
        pytest.param({1.0: 0.0, 2.0: 10.0, float("inf"): 10.0}, 0.5, 1.5, id="within a bucket"),
        pytest.param({1.0: 1.0, float("inf"): 10.0}, 0.9, 1.0, id="above the last bound"),
    ],
)
def test_quantiles(buckets: dict[float, float], ratio: float, wanted: float | None) -> None:
    assert quantile(buckets, ratio) == wanted


def test_names_that_peers_make_up_command_no_terminal_and_forge_no_line() -> None:
    forged = 'x\x1cistio_requests_total{reporter="source",source_workload="a",destination_workload="b"} 7'
    text = (
        'istio_requests_total{reporter="source",source_workload="\x1b[2Jevil\x9b",destination_workload="web"} 3\n'
        f'istio_requests_total{{reporter="source",source_workload="{forged}",destination_workload="web"}} 4\n'
    )
    found = list(parse_metrics(text))
    assert {sample.labels["source_workload"] for sample in found} >= {"?[2Jevil?"}
    assert not [sample for sample in found if sample.labels.get("destination_workload") == "b"]
    assert all(value.isprintable() for sample in found for value in sample.labels.values())


def counted(reporter: str, name: str, source: str, identity: str, value: int, code: str = "") -> str:
    edge = f'source_workload="{source}",source_principal="{identity}",destination_workload="db-v1"'
    security = "mutual_tls" if reporter == "destination" else "unknown"
    answer = f',response_code="{code}"' if code else ""
    return (
        f'istio_{name}_total{{reporter="{reporter}",{edge},connection_security_policy="{security}"{answer}}} {value}\n'
    )


WEB, OTHER = "spiffe://cluster.local/ns/default/sa/web", "spiffe://cluster.local/ns/default/sa/other"
OPENED, CLOSED = "tcp_connections_opened", "tcp_connections_closed"


def test_a_server_of_bytes_knows_identities_and_the_clients_tell_the_workloads() -> None:
    text = (
        counted("source", OPENED, "web-v1", WEB, 7)
        + counted("destination", OPENED, "unknown", WEB, 5)
        + counted("destination", OPENED, "unknown", OTHER, 3)
        + counted("destination", OPENED, "unknown", "unknown", 1)
    )
    edges = {edge.source: edge for edge in edges_between({}, total(parse_metrics(text)), 1.0)}
    assert {name: (edge.requests, edge.refused, edge.mutual_tls) for name, edge in edges.items()} == {
        "web-v1": (7, 0, True),
        "unknown (other)": (3, 0, True),  # its proxy is not on this machine
        "unknown": (1, 0, True),
    }


def test_two_workloads_with_one_identity() -> None:
    text = (
        counted("source", OPENED, "web-v1", WEB, 4)
        + counted("source", OPENED, "web-v2", WEB, 4)
        + counted("destination", CLOSED, "unknown", WEB, 8)  # a policy refused them before they were opened
    )
    edges = edges_between({}, total(parse_metrics(text)), 1.0)
    assert [(edge.source, edge.requests, edge.refused, edge.mutual_tls) for edge in edges] == [
        ("web-v1", 4, 0, True),
        ("web-v2", 4, 0, True),
    ]


def test_refused_requests_are_no_failures_and_are_counted() -> None:
    text = "".join(
        counted("source", "requests", "web-v1", WEB, 2, code) for code in ("200", "401", "403", "404", "503")
    )
    (edge,) = edges_between({}, total(parse_metrics(text)), 1.0)
    assert (edge.requests, edge.refused, edge.success_ratio) == (10, 4, 0.8)
