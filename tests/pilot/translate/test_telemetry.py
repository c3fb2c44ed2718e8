"""Fields of what listeners report that no golden case shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig

from lateen.pilot.model.values_telemetry import (
    AccessLog,
    Collector,
    FileLog,
    GrpcLog,
    SkyWalking,
    Telemetry,
    TraceTag,
    Tracing,
    Zipkin,
)
from lateen.pilot.translate.access_logs import chain_logs, listener_logs
from lateen.pilot.translate.metric_expressions import to_envoy
from lateen.pilot.translate.metric_labels import GATEWAY_LABELS, INBOUND_LABELS, OUTBOUND_LABELS, without
from lateen.pilot.translate.pack import unpack
from lateen.pilot.translate.tracing import tracing_of
from lateen.wire.label_text import SERVICE, UNLISTED

ZIPKIN = Zipkin(collector=Collector(cluster="c", authority="a"))
TRACED = Tracing(tracer=ZIPKIN, percent=12.5)


def test_fields_that_a_telemetry_replaces_make_no_series() -> None:
    assert without(OUTBOUND_LABELS, ()) == OUTBOUND_LABELS
    changed = without(OUTBOUND_LABELS, ("response_code", "reporter"))
    assert changed == {field: form for field, form in OUTBOUND_LABELS.items() if field != "response_code"}
    # Who gives services another name does not want every host that is asked for.
    assert ":authority" in OUTBOUND_LABELS[SERVICE]
    assert without(OUTBOUND_LABELS, ("destination_service",))[SERVICE] == GATEWAY_LABELS[SERVICE]
    assert without(INBOUND_LABELS[True], ("destination_service",)) == INBOUND_LABELS[True]
    services = ("destination_service", "destination_service_name", "destination_service_namespace")
    for labels in (OUTBOUND_LABELS, GATEWAY_LABELS, INBOUND_LABELS[False]):
        assert labels.keys() - without(labels, services).keys() == {SERVICE, UNLISTED} & labels.keys()


def test_fields_of_tracing() -> None:
    tag = TraceTag(name="tenant", kind="header", source="x-tenant", default="none")
    more = replace(
        TRACED, tags=(tag,), istio_tags=False, max_path_length=99, propagate=False, decide_by_request_id=False
    )
    fields = tracing_of(Telemetry(tracing=more))
    built = fields["tracing"]
    assert (built.random_sampling.value, built.max_path_tag_length.value) == (12.5, 99)
    assert [(tag.tag, tag.request_header.default_value) for tag in built.custom_tags] == [("tenant", "none")]
    assert not built.HasField("spawn_upstream_span")
    # Field 13, which the messages at hand do not know.
    assert built.SerializeToString().endswith(b"\x68\x01")
    by_id = unpack(fields["request_id_extension"].typed_config, UuidRequestIdConfig)
    assert by_id.use_request_id_for_trace_sampling.value is False
    plain = tracing_of(Telemetry(tracing=TRACED))["tracing"]
    assert not plain.SerializeToString().endswith(b"\x68\x01")
    assert len(plain.custom_tags) == 9
    assert tracing_of(Telemetry())["tracing"] is None


def test_who_starts_a_span_of_its_own() -> None:
    assert tracing_of(Telemetry(tracing=TRACED), gateway=True)["tracing"].spawn_upstream_span.value
    walking = replace(TRACED, tracer=SkyWalking(collector=ZIPKIN.collector))
    assert tracing_of(Telemetry(tracing=walking))["tracing"].spawn_upstream_span.value


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("request.method", "request . method"),
        ("node.id", "xds.node . id"),
        ("request.node", "request . node"),
        ("'node.id'", "'node.id'"),
        ("cluster_name == 'x'", "xds.cluster_name == 'x'"),
        ("(a)%b", "( a ) % b"),
        ("'a)%b'", r"'a)\x25b'"),
        ("upstream_peer.nothing", "'unknown'"),
        ("a in b", "a in b"),
    ],
)
def test_istios_names_become_envoys(written: str, wanted: str) -> None:
    assert to_envoy(written) == wanted


@pytest.mark.parametrize("written", ["workload", "name", "labels['app']", 'labels["version"]', "['cluster']"])
def test_parts_of_a_peer_are_taken_out_of_its_text(written: str) -> None:
    place = {"workload": 0, "name": 0, "labels['app']": 5, 'labels["version"]': 6, "['cluster']": 4}[written]
    dot = "" if written.startswith("[") else "."
    assert f"{{{place}}}([^;]*)" in to_envoy(f"downstream_peer{dot}{written}")
    assert to_envoy(f"upstream_peer{dot}{written} == 'x'").endswith(" == 'x'")


def test_logs_of_listeners() -> None:
    file = AccessLog(sink=FileLog(path="/x"), when="true")
    requests = AccessLog(sink=GrpcLog(collector=ZIPKIN.collector, http=True, log_name="r"))
    connections = AccessLog(sink=GrpcLog(collector=ZIPKIN.collector, http=False, log_name="c"))
    told = Telemetry(access_logs=(file, requests, connections))
    names = [
        [log.name.rpartition(".")[2] for log in logs]
        for logs in (chain_logs(told, http=True), chain_logs(told, http=False), listener_logs(told))
    ]
    assert names == [["file", "http_grpc"], ["file", "tcp_grpc"], ["file", "tcp_grpc"]]
    # Only connections that no chain took, and of those only what the filter is true of.
    first, second = listener_logs(told)[0].filter.and_filter.filters
    assert list(first.response_flag_filter.flags) == ["NR"]
    assert second.extension_filter.name == "envoy.access_loggers.extension_filters.cel"
    assert listener_logs(replace(told, listener_logs=False)) == ()
