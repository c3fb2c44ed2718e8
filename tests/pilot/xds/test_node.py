"""Which nodes and identities are taken as well-formed."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3.base_pb2 import Node
from tests.fakes.certs import StrangeAuthority, pem_of, uri
from tests.fakes.xds import NODE_ID

from lateen.errors import BadInput, Refused
from lateen.pilot.xds.node import MAX_DEPTH, MAX_METADATA_BYTES, Trust, parse_identity, parse_node
from lateen.pilot.xds.source import Identity, NodeInfo


def make_node(node_id: str = NODE_ID, **metadata: Any) -> Any:
    node = Node(id=node_id, cluster="reviews.default")
    node.metadata.update(metadata)
    return node


def test_metadata_becomes_plain_values() -> None:
    node = make_node(NAMESPACE="default", LABELS={"app": "x"}, LIST=[1, True, None, {"a": "b"}])
    node.user_agent_build_version.version.major_number = 1
    node.user_agent_build_version.version.minor_number = 40
    assert parse_node(node) == NodeInfo(
        id=NODE_ID,
        cluster="reviews.default",
        metadata={"NAMESPACE": "default", "LABELS": {"app": "x"}, "LIST": [1.0, True, None, {"a": "b"}]},
        user_agent_version="1.40.0",
    )


def nested(depth: int, *, lists: bool = False) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


@pytest.mark.parametrize(
    ("node", "words"),
    [
        pytest.param(Node(), "node id ''", id="empty"),
        pytest.param(make_node("a~b~c"), "'a~b~c'", id="three parts"),
        pytest.param(make_node("a~b~c~d~e"), "'a~b~c~d~e'", id="five parts"),
        pytest.param(make_node("~b~c~d"), "wanted the form", id="no type"),
        pytest.param(make_node("a~b~c~" + "d" * 1020), "at most 1024", id="long id"),
        pytest.param(Node(id=NODE_ID, cluster="x" * 1025), "at most 1024", id="long cluster"),
        pytest.param(make_node("a~b~c\x1b[2J.d~e"), "not printed", id="commands a terminal"),
        pytest.param(Node(id=NODE_ID, cluster="\x9b2J"), "not printed", id="cluster that commands a terminal"),
        pytest.param(make_node(X="y" * MAX_METADATA_BYTES), "at most 65536", id="much metadata"),
        pytest.param(make_node(X=nested(MAX_DEPTH)), "nested deeper", id="deep structs"),
        pytest.param(make_node(X=nested(MAX_DEPTH, lists=True)), "nested deeper", id="deep lists"),
    ],
)
def test_bad_nodes(node: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_node(node)


def test_metadata_at_the_limit_of_depth() -> None:
    assert parse_node(make_node(X=nested(MAX_DEPTH - 1))).metadata["X"] == nested(MAX_DEPTH - 1)


def test_a_number_that_is_none() -> None:
    assert parse_node(make_node(X=float("nan"))).metadata == {"X": None}


ISSUER = StrangeAuthority()
KEY = ec.generate_private_key(ec.SECP256R1())
ME = "spiffe://cluster.local/ns/default/sa/reviews"


class Call:
    """A gRPC context of a connection whose client showed a certificate with these names, or none."""

    def __init__(self, *names: x509.GeneralName) -> None:
        self._names = names

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [pem_of(ISSUER.certify(KEY, names=self._names))]} if self._names else {}


def test_local_trust_proves_nobody_in_particular() -> None:
    assert parse_identity(Call(uri(ME)), Trust.LOCAL) == Identity(None)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([], id="none"),
        pytest.param([x509.DNSName("example.org")], id="no SPIFFE ID"),
        pytest.param([uri(ME), uri("spiffe://cluster.local/ns/b/sa/d")], id="two"),
        pytest.param([uri(ME), uri("https://example.org")], id="another URI beside it"),
        pytest.param([uri(ME + "\0.evil")], id="longer than gRPC's string of it"),
        pytest.param([uri("spiffe://cluster.local/something")], id="no workload's"),
    ],
)
def test_certificates_that_prove_nothing(names: list[x509.GeneralName]) -> None:
    with pytest.raises(Refused):
        parse_identity(Call(*names), Trust.MUTUAL_TLS)


def test_a_certificate_with_one_spiffe_id() -> None:
    assert parse_identity(Call(x509.DNSName("reviews.default"), uri(ME)), Trust.MUTUAL_TLS).spiffe_id == ME
