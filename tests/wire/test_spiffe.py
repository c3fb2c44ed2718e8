"""SPIFFE IDs: one spelling an identity, everything else refused with the reason."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.errors import BadInput
from lateen.wire.spiffe import SpiffeId, parse_spiffe_id, parse_workload_identity

LABEL = st.from_regex(re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII), fullmatch=True)
IDS = st.builds(
    SpiffeId,
    st.from_regex(re.compile(r"[a-z0-9._-]{1,100}", re.ASCII), fullmatch=True),
    LABEL,
    st.lists(LABEL, min_size=1, max_size=3).map(".".join),
)


@given(IDS)
def test_parsing_inverts_formatting(identity: SpiffeId) -> None:
    assert parse_spiffe_id(str(identity)) == identity
    assert str(identity) == "spiffe://" + identity.principal
    claimed = f"{identity.namespace}/{identity.service_account}"
    assert parse_workload_identity(claimed, identity.trust_domain) == identity


@given(st.text())
def test_what_parses_is_spelled_just_so(text: str) -> None:
    for candidate in (text, f"spiffe://td/ns/{text}/sa/x", f"spiffe://td/ns/x/sa/{text}", f"spiffe://{text}/ns/x/sa/x"):
        try:
            identity = parse_spiffe_id(candidate)
        except BadInput:
            continue
        assert str(identity) == candidate


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("spiffe://cluster.local", id="no-path"),
        pytest.param("spiffe://cluster.local/ns/a/sa/b/", id="trailing-slash"),
        pytest.param("spiffe://cluster.local/ns/a/sa/b/c", id="seventh-part"),
        pytest.param("spiffe://cluster.local//ns/a/sa/b", id="doubled-slash"),
        pytest.param("spiffe://cluster.local/sa/a/ns/b", id="swapped"),
        pytest.param("SPIFFE://cluster.local/ns/a/sa/b", id="scheme-upper-case"),
        pytest.param("https://cluster.local/ns/a/sa/b", id="other-scheme"),
        pytest.param("spiffe://Cluster.local/ns/a/sa/b", id="trust-domain-upper-case"),
        pytest.param("spiffe://u@cluster.local/ns/a/sa/b", id="user-info"),
        pytest.param("spiffe://cluster.local:80/ns/a/sa/b", id="port"),
        pytest.param("spiffe:///ns/a/sa/b", id="no-trust-domain"),
        pytest.param("spiffe://cluster.local/ns//sa/b", id="no-namespace"),
        pytest.param("spiffe://cluster.local/ns/a/sa/", id="no-account"),
        pytest.param("spiffe://cluster.local/ns/../sa/b", id="dots"),
        pytest.param("spiffe://cluster.local/ns/a/sa/b..c", id="empty-label"),
        pytest.param("spiffe://cluster.local/ns/a.b/sa/c", id="namespace-with-dot"),
        pytest.param("spiffe://cluster.local/ns/*/sa/b", id="wildcard"),
        pytest.param("spiffe://cluster.local/ns/a%2f/sa/b", id="percent"),
        pytest.param("spiffe://cluster.local/ns/a/sa/b?x", id="query"),
        pytest.param("spiffe://cluster.local/ns/a/sa/b#x", id="fragment"),
        pytest.param("spiffe://cluster.local/ns/a/sa/b\0.evil", id="zero-byte"),
        pytest.param("spiffe://cluster.local/ns/a/sa/b\n", id="newline"),
        pytest.param("spiffe://cluster.local/ns/a/sa/-b", id="leading-hyphen"),
        pytest.param("spiffe://cluster.local/ns/" + "a" * 64 + "/sa/b", id="label-too-long"),
        pytest.param("spiffe://cluster.local/ns/a/sa/" + ".".join(["a" * 60] * 5), id="account-too-long"),
        pytest.param("spiffe://" + "a" * 256 + "/ns/a/sa/b", id="trust-domain-too-long"),
        pytest.param("spiffe://cluster.local/ns/a/sa/\u0430", id="cyrillic-a"),
        pytest.param("spiffe://cluster.local/ns/a/sa/\u0661", id="arabic-digit"),
        pytest.param("spiffe://" + "a/" * 5000, id="huge"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_spiffe_id(text)
    assert len(str(caught.value)) < 300
    assert "\0" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "/b", "a/", "A/b", "a/b\0"])
def test_workload_identity_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_workload_identity(text, "cluster.local")


def test_message_names_what_was_seen_and_wanted() -> None:
    with pytest.raises(BadInput, match=r"namespace 'De\.fault': 1 to 63 of a-z, 0-9 and '-' wanted"):
        parse_spiffe_id("spiffe://cluster.local/ns/De.fault/sa/x")
