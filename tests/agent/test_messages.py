"""The agent's own encoding against the protobuf library and the real messages."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3.base_pb2 import Node as EnvoyNode
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.certs import StrangeAuthority

from lateen.agent import messages as m
from lateen.agent.names import Entry
from lateen.agent.protowire import encode_struct, parse_fields, varint
from lateen.agent.spec import Node
from lateen.errors import BadInput
from lateen.wire import ca, nds, trust_messages
from lateen.wire.anchors import confine
from lateen.wire.trust import TrustBundle, TrustUpdate

NODE = Node(
    id="sidecar~1.2.3.4~a.b~b.svc.cluster.local",
    cluster="a.b",
    metadata={"LABELS": {"app": "a"}, "LIST": ["x", "y"], "FLAG": True, "NAME": "ä"},
    locality={"region": "eu", "sub_zone": "rack"},
)


def test_names_are_those_of_the_wire_package() -> None:
    assert m.CREATE_CERTIFICATE == ca.CREATE_CERTIFICATE
    assert m.IDENTITY_METADATA == ca.IDENTITY_METADATA
    assert m.NAME_TABLE_TYPE_URL == nds.NAME_TABLE_TYPE_URL
    assert Secret.DESCRIPTOR.full_name in m.SECRET_TYPE_URL


def test_requests_are_read() -> None:
    sotw = DiscoveryRequest(
        version_info="1", resource_names=["a", "b"], type_url="t", response_nonce="n", node=EnvoyNode(id="x")
    )
    sotw.error_detail.message = "bad"
    assert m.decode_sotw_request(sotw.SerializeToString()) == m.SotwRequest(names=("a", "b"), nonce="n", error="bad")
    assert m.decode_sotw_request(b"") == m.SotwRequest()
    delta = DeltaDiscoveryRequest(
        resource_names_subscribe=["a"],
        resource_names_unsubscribe=["b", "c"],
        initial_resource_versions={"d": "1", "e": ""},
        response_nonce="n",
    )
    delta.error_detail.code = 3
    read = m.decode_delta_request(delta.SerializeToString())
    assert (read.subscribe, read.unsubscribe, dict(read.versions)) == (("a",), ("b", "c"), {"d": "1", "e": ""})
    assert (read.nonce, read.error) == ("n", "no reason given")


def test_responses_are_written() -> None:
    sotw = DiscoveryResponse.FromString(
        m.encode_sotw_response(version="v", type_url="t", nonce="n", bodies=[b"one", b""])
    )
    assert sotw.version_info == "v"
    assert [(each.type_url, each.value) for each in sotw.resources] == [("t", b"one"), ("t", b"")]
    assert (sotw.type_url, sotw.nonce) == ("t", "n")
    data = m.encode_delta_response(type_url="t", nonce="n", resources=[m.DeltaResource("a", "1", b"body" * 100)])
    delta = DeltaDiscoveryResponse.FromString(data)
    (resource,) = delta.resources
    assert (resource.name, resource.version, resource.resource.value) == ("a", "1", b"body" * 100)
    assert m.decode_delta_response(data) == m.DeltaResponse("t", "n", (m.DeltaResource("a", "1", b"body" * 100),))


def test_secrets_are_written() -> None:
    secret = Secret.FromString(m.encode_certificate_secret("default", chain=b"CHAIN", key=b"KEY" * 100))
    assert secret.name == "default"
    assert secret.tls_certificate.certificate_chain.inline_bytes == b"CHAIN"
    assert secret.tls_certificate.private_key.inline_bytes == b"KEY" * 100
    roots = Secret.FromString(m.encode_roots_secret("ROOTCA", b"ROOTS"))
    assert roots.validation_context.trusted_ca.inline_bytes == b"ROOTS"


def test_peers_of_several_trust_domains() -> None:
    own, other = (StrangeAuthority().root_pem.decode() for _ in range(2))
    bundle = TrustBundle.of({"a.example": [own], "b.example": [other]})
    secret = Secret.FromString(m.encode_peers_secret("ROOTCA", bundle, "a.example"))
    context = secret.validation_context
    assert secret.name == "ROOTCA"
    assert not context.HasField("trusted_ca")
    assert context.custom_validator_config.name == "envoy.tls.cert_validator.spiffe"
    config = SPIFFECertValidatorConfig()
    assert context.custom_validator_config.typed_config.Unpack(config)
    assert [(domain.name, domain.trust_bundle.inline_bytes.decode()) for domain in config.trust_domains] == [
        ("a.example", own),
        ("b.example", confine(other, "b.example")),
    ]


def test_trust_updates_are_read() -> None:
    root = StrangeAuthority().root_pem.decode()
    update = TrustUpdate(
        TrustBundle.of({"a.example": [root], "b.example": [root]}), "path", (("a.example", "{}"), ("c.example", "{1}"))
    )
    data = trust_messages.encode_trust(update)
    assert m.decode_trust(data) == trust_messages.decode_trust(data) == update


def test_first_request_and_refusal() -> None:
    first = DeltaDiscoveryRequest.FromString(m.encode_delta_request("t", node=NODE, versions={"b": "2", "a": "1"}))
    assert (first.type_url, dict(first.initial_resource_versions)) == ("t", {"a": "1", "b": "2"})
    assert (first.node.id, first.node.cluster) == (NODE.id, NODE.cluster)
    assert MessageToDict(first.node.metadata) == NODE.metadata
    assert (first.node.locality.region, first.node.locality.zone, first.node.locality.sub_zone) == ("eu", "", "rack")
    refusal = DeltaDiscoveryRequest.FromString(m.encode_delta_request("t", nonce="n", error="why"))
    assert not refusal.HasField("node")
    assert (refusal.response_nonce, refusal.error_detail.code, refusal.error_detail.message) == ("n", 3, "why")


def test_name_tables_are_read() -> None:
    table = nds.build_name_table(
        {
            "a.b.svc.cluster.local": nds.NameInfo(ips=["1.1.1.1", "::1"], shortname="a", namespace="b"),
            "x.test": nds.NameInfo(ips=["2.2.2.2"], registry="External"),
            "empty.test": nds.NameInfo(),
        }
    )
    assert m.decode_name_table(nds.encode_name_table(table)) == {
        "a.b.svc.cluster.local": Entry(("1.1.1.1", "::1"), "a", "b"),
        "x.test": Entry(("2.2.2.2",)),
        "empty.test": Entry(()),
    }


def test_certificates() -> None:
    request = ca.IstioCertificateRequest.FromString(m.encode_certificate_request(b"CSR", 300))
    assert (request.csr, request.validity_duration) == ("CSR", 300)
    assert m.encode_certificate_request(b"CSR", 0) == ca.IstioCertificateRequest(csr="CSR").SerializeToString()
    answer = ca.IstioCertificateResponse(cert_chain=["leaf", "root"]).SerializeToString()
    assert m.decode_certificates(answer) == ["leaf", "root"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x0a\x05abc", id="ends inside"),
        pytest.param(b"\xff" * 12, id="endless number"),
        pytest.param(b"\x0a", id="no length"),
        pytest.param(b"\x0b", id="group"),
        pytest.param(b"\x02\x00", id="field 0"),
        pytest.param(b"\x0d\x00", id="fixed32 cut"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="huge length"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_fields(data)


@pytest.mark.parametrize("decode", [m.decode_certificates, m.decode_name_table, m.decode_delta_response])
def test_wrong_kinds_of_fields_are_refused(decode: Any) -> None:
    for data in (b"\x08\x01\x10\x01", b"\x0a\x02\xff\xfe\x12\x02\xff\xfe"):
        with pytest.raises(BadInput):
            decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (m.decode_sotw_request, m.decode_delta_request, m.decode_delta_response, m.decode_name_table):
        try:
            decode(data)
        except BadInput:
            continue


WORD = st.text(max_size=5)
JSON = st.recursive(
    WORD | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(st.dictionaries(WORD, JSON, max_size=3))
def test_structs_are_the_librarys(values: dict[str, Any]) -> None:
    wanted = Struct()
    wanted.update(values)
    assert Struct.FromString(encode_struct(values)) == wanted


@given(st.integers(0, 2**64 - 1))
def test_numbers(value: int) -> None:
    assert parse_fields(b"\x08" + varint(value)) == {1: [value]}
