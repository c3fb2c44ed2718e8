"""Join tokens: used once, bound, short-lived, hashed, told once; kept over restarts; audited."""

from __future__ import annotations

import errno
import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.fakes.certs import ManualClock, StrangeAuthority, pem_of

from lateen.citadel.audit import AuditLog, read_audit
from lateen.citadel.join_tokens import MAX_TOKENS, JoinTokens
from lateen.errors import BadInput, Refused, Unavailable
from lateen.wire.join import JoinToken, JoinTokenCreated, parse_bearer, parse_join_token, pins_of, select_roots
from lateen.wire.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "reviews")
SECRET = bytes(range(32))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(tmp_path: Path, clock: ManualClock) -> JoinTokens:
    return load(tmp_path, clock)


def load(folder: Path, clock: ManualClock, trust_domain: str = "cluster.local") -> JoinTokens:
    return JoinTokens(folder / "tokens.json", trust_domain=trust_domain, audit=AuditLog(folder), clock=clock)


def test_a_token_is_used_once(tokens: JoinTokens, tmp_path: Path, clock: ManualClock) -> None:
    token = tokens.create(ME)
    assert tokens.take(token, "default/reviews") == ME
    for store in (tokens, load(tmp_path, clock)):  # also after a restart
        with pytest.raises(Refused, match=f"join token '{token.name}' is used up: 1 of 1"):
            store.take(token, None)
        assert [info.state for info in store.listed()] == ["used"]


def test_as_often_as_it_says_over_restarts(tmp_path: Path, clock: ManualClock) -> None:
    token = load(tmp_path, clock).create(ME, uses=3)
    taken = 0
    for _ in range(5):
        try:
            taken += load(tmp_path, clock).take(token, None) == ME
        except Refused:
            continue
    assert taken == 3


def test_it_is_over_in_time(tokens: JoinTokens, clock: ManualClock) -> None:
    token = tokens.create(ME, lifetime=timedelta(minutes=10))
    clock.advance(timedelta(minutes=10))
    with pytest.raises(Refused, match="was valid until 2026-06-01T12:10:00Z only"):
        tokens.take(token, None)
    assert [info.state for info in tokens.listed()] == ["expired"]
    clock.advance(timedelta(hours=1))
    assert tokens.listed() == ()
    with pytest.raises(BadInput, match=f"no join token '{token.name}'"):
        tokens.revoke(token.name)


def test_it_is_for_one_identity_and_not_used_up_by_another(tokens: JoinTokens) -> None:
    token = tokens.create(ME)
    with pytest.raises(Refused, match="is for another identity than 'default/ratings'"):
        tokens.take(token, "default/ratings")
    assert tokens.take(token, "default/reviews") == ME


@pytest.mark.parametrize("name", ["the same", "00000000"])
def test_a_wrong_secret_learns_nothing(tokens: JoinTokens, name: str) -> None:
    token = tokens.create(ME)
    shown = JoinToken(name=token.name if name == "the same" else name, secret=bytes(32))
    for wanted in (None, "default/ratings"):
        with pytest.raises(Refused) as caught:
            tokens.take(shown, wanted)
        assert str(caught.value) == "no such join token"
    assert tokens.take(token, None) == ME


def test_revoked(tokens: JoinTokens, tmp_path: Path, clock: ManualClock) -> None:
    token, other = tokens.create(ME), tokens.create(ME)
    assert tokens.revoke(token.name).identity == str(ME)
    for store in (tokens, load(tmp_path, clock)):
        with pytest.raises(Refused, match="no such join token"):
            store.take(token, None)
        assert [info.name for info in store.listed()] == [other.name]


def test_given_back_when_nothing_was_issued(tokens: JoinTokens, tmp_path: Path, clock: ManualClock) -> None:
    token = tokens.create(ME)
    tokens.take(token, None)
    tokens.give_back(token.name)
    tokens.give_back(token.name)  # twice gives no second use
    assert load(tmp_path, clock).take(token, None) == ME
    tokens.give_back("00000000")


def test_the_secret_is_nowhere(tokens: JoinTokens, tmp_path: Path) -> None:
    with capture_logs() as logs:
        token = tokens.create(ME)
        tokens.take(token, None)
        with pytest.raises(Refused):
            tokens.take(token, None)
    text = token.bearer.rpartition(".")[2]
    created = JoinTokenCreated(info=tokens.info(token.name), text=token.text, roots="", listen="")
    shown = repr(token) + repr(created) + repr(logs) + repr(tokens.listed())
    for path in tmp_path.iterdir():
        shown += path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text not in shown
    assert token.secret.hex() not in shown


def test_each_is_in_the_trail(tokens: JoinTokens, tmp_path: Path) -> None:
    token = tokens.create(ME, uses=2)
    tokens.revoke(token.name)
    found = [(entry.event, entry.identity, entry.token, entry.reason) for entry in read_audit(tmp_path)]
    assert found == [
        ("token-created", str(ME), token.name, "for 2 uses"),
        ("token-revoked", str(ME), token.name, ""),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"lifetime": timedelta(0)}, "lifetime of 0:00:00, wanted 1 s to 24 h", id="no-life"),
        pytest.param({"lifetime": timedelta(hours=25)}, "wanted 1 s to 24 h", id="long"),
        pytest.param({"uses": 0}, "0 uses, wanted 1 to 1000", id="no-use"),
        pytest.param({"uses": 1001}, "wanted 1 to 1000", id="many"),
        pytest.param({"identity": SpiffeId("other", "a", "b")}, "is not of trust domain 'cluster.local'", id="foreign"),
    ],
)
def test_tokens_that_cannot_be(tokens: JoinTokens, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tokens.create(**{"identity": ME, **fields})
    assert tokens.listed() == ()


def test_a_use_that_cannot_be_written_is_not_granted(tokens: JoinTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tokens.create(ME)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(Unavailable, match="no space left on device"):
            tokens.take(token, None)
    assert tokens.take(token, None) == ME


def test_their_number_is_bounded(tokens: JoinTokens, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    for _ in range(MAX_TOKENS):
        tokens.create(ME)
    with pytest.raises(Refused, match="1000 join tokens are valid already"):
        tokens.create(ME)
    clock.advance(timedelta(hours=2))
    tokens.create(ME)
    assert len(tokens.listed()) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'[{"name":"x"}]', b"\xff\xfe", b'[{"name":1}]'])
def test_a_broken_file_lets_nobody_in(tmp_path: Path, clock: ManualClock, content: bytes) -> None:
    token = load(tmp_path, clock).create(ME)
    (tmp_path / "tokens.json").write_bytes(content)
    with capture_logs() as logs:
        tokens = load(tmp_path, clock)
    assert [line["event"] for line in logs] == ["join tokens set aside"]
    with pytest.raises(Refused, match="no such join token"):
        tokens.take(token, None)
    assert (tmp_path / "tokens.json.broken").read_bytes() == content


def test_a_renamed_mesh_takes_none_of_before(tokens: JoinTokens, tmp_path: Path, clock: ManualClock) -> None:
    token = tokens.create(ME)
    with pytest.raises(Refused, match="no such join token"):
        load(tmp_path, clock, "renamed.example").take(token, None)


# ---- the text


def test_the_text_comes_back() -> None:
    token = JoinToken(name="0a1b2c3d", secret=SECRET, pins=(bytes(32), b"\xff" * 32))
    assert parse_join_token(f"  {token.text}\n") == token
    assert parse_bearer(token.bearer) == JoinToken(name="0a1b2c3d", secret=SECRET)
    assert parse_bearer("eyJhbGciOi.x.y") is None


TEXT = JoinToken(name="0a1b2c3d", secret=SECRET, pins=(bytes(32),)).text


@given(st.integers(0, len(TEXT) - 1), st.sampled_from([*"azAZ09._+-=/ \n\0é", ""]))
def test_a_changed_text_is_another_token_or_none(place: int, char: str) -> None:
    changed = TEXT[:place] + char + TEXT[place + 1 :]
    told = ""
    try:
        token = parse_join_token(changed)
    except BadInput as error:
        told = str(error)
    else:
        assert token.text == changed.strip()
    assert TEXT.split(".")[2] not in told


def test_only_pinned_roots_are_trusted() -> None:
    mine, other = StrangeAuthority(), StrangeAuthority()
    token = JoinToken(name="0a1b2c3d", secret=SECRET, pins=pins_of([mine.certificate]))
    both = pem_of(other.certificate) + pem_of(mine.certificate)
    assert select_roots(token, both) == pem_of(mine.certificate)
    for pem in (b"", other.root_pem, b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"):
        with pytest.raises(BadInput, match="roots"):
            select_roots(token, pem)
