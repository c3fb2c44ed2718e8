"""The trust bundle: equal however it was put together, bounded, the same to both ends of the wire."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.certs import ManualClock, StrangeAuthority, p256_csr

from lateen.agent import messages
from lateen.citadel.authority import Authority
from lateen.errors import BadInput
from lateen.wire.spiffe import SpiffeId
from lateen.wire.trust import MAX_ROOTS, TrustBundle, TrustUpdate, normal_roots, signing_path_of
from lateen.wire.trust_messages import TRUST_TYPE_URL, decode_trust, encode_trust

ROOTS = [StrangeAuthority().root_pem.decode() for _ in range(3)]


def test_order_spelling_and_repetition_make_no_difference() -> None:
    one = TrustBundle.of({"a.example": ROOTS, "b.example": ROOTS[:1]})
    windows = "some words\r\n" + "".join(reversed(ROOTS)).replace("\n", "\r\n")
    other = TrustBundle.of({"b.example": [ROOTS[0], ROOTS[0]], "c.example": []}).with_domain("a.example", [windows])
    assert one == other
    assert one.version == other.version
    assert hash(one) == hash(other)
    assert encode_trust(TrustUpdate(one)) == encode_trust(TrustUpdate(other))
    assert other.with_domain("a.example", ()) == TrustBundle.of({"b.example": ROOTS[:1]})
    assert one.version != one.with_domain("b.example", ROOTS[:2]).version
    assert one.pem("b.example").decode() == ROOTS[0]
    assert one.pem("unknown") == b""


def test_both_ends_read_the_same() -> None:
    update = TrustUpdate(TrustBundle.of({"a.example": ROOTS, "b.example": ROOTS[1:]}), "path", revoked="lists")
    assert decode_trust(encode_trust(update)) == update
    assert messages.decode_trust(encode_trust(update)) == update
    assert messages.TRUST_TYPE_URL == TRUST_TYPE_URL


@pytest.mark.parametrize(
    ("roots", "words"),
    [
        pytest.param({"A": ROOTS}, "trust domain 'A'", id="domain"),
        pytest.param(
            {"a": ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]}, "cannot be read", id="pem"
        ),
        pytest.param({"a": ["é"]}, "cannot be read", id="text"),
        pytest.param({f"d{n}": () for n in range(101)}, "101 trust domains, at most 100", id="many"),
    ],
)
def test_what_is_no_bundle(roots: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        TrustBundle.of(roots)


def test_roots_are_bounded() -> None:
    many = [StrangeAuthority().root_pem.decode() for _ in range(MAX_ROOTS + 1)]
    assert len(normal_roots(many[1:], "here")) == MAX_ROOTS
    with pytest.raises(BadInput, match=f"here: {MAX_ROOTS + 1} roots, at most {MAX_ROOTS} wanted"):
        normal_roots(many, "here")


def test_garbage_on_the_wire_is_refused() -> None:
    for data in (b"\xff\xff", b"\x0a\x03\x0a\x01A"):
        for decode in (decode_trust, messages.decode_trust):
            with pytest.raises(BadInput):
                assert decode(data + ROOTS[0].encode())


def test_a_leaf_tells_by_which_way_it_was_signed(tmp_path: Path) -> None:
    clock = ManualClock()
    paths = set()
    for name in ("one", "two"):
        authority = Authority.load_or_create(tmp_path / name, "cluster.local", clock)
        issued = authority.issue(p256_csr(), SpiffeId("cluster.local", "a", "b"), timedelta(hours=1))
        assert signing_path_of(b"".join(issued.pems[:-1])) == authority.signing_path
        paths.add(authority.signing_path)
    assert len(paths) == 2
