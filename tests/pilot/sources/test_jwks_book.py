"""When keys are fetched, how long they are kept, and what is told: a table of moments, without a clock."""

from __future__ import annotations

import random

from tests.fakes.tokens import jwks

from lateen.pilot.model.jwks import JwksSource, KeySet, parse_key_set
from lateen.pilot.sources.jwks_book import Book, Saved, Times

ONE = JwksSource("uri", "https://one.test/jwks")
TWO = JwksSource("issuer", "https://two.test")
SET = parse_key_set(jwks("ec").encode())
OTHER = parse_key_set(jwks("ec-2").encode())
EMPTY = KeySet("")
T = 1_000_000.0
HOUR = 3600.0


def make_book(**times: float) -> Book:
    return Book(Times(**times), rng=random.Random(1))


def messages(book: Book, source: JwksSource = ONE) -> list[tuple[str, str]]:
    return [(note.level, note.message) for note in book.notes_of(source)]


def test_a_new_source_is_due_at_once_and_fetched_once() -> None:
    book = make_book()
    assert book.want([ONE, TWO], T) == set()
    assert book.wake_at() == T
    assert book.due(T) == [TWO, ONE] or book.due(T) == [ONE, TWO]
    assert book.due(T) == []
    assert book.states() == {ONE: "none", TWO: "none"}
    assert messages(book) == []  # on its way: nothing is wrong yet


def test_keys_that_come_are_told_once_and_renewed_in_time() -> None:
    book = make_book()
    book.want([ONE], T)
    book.due(T)
    assert book.succeeded(ONE, SET, T) == {ONE}
    assert book.keys([ONE, TWO]) == {ONE: SET.text, TWO: ""}
    due = book.wake_at()
    assert due is not None
    assert 0.9 * 1200 <= due - T <= 1200
    assert book.due(due - 1) == []
    assert book.due(due) == [ONE]
    assert book.succeeded(ONE, SET, due) == set()  # the same: nothing to push
    later = book.wake_at()
    assert later is not None
    assert book.due(later) == [ONE]
    assert book.succeeded(ONE, OTHER, later) == {ONE}
    assert book.states() == {ONE: "fresh"}


def test_failures_are_tried_again_soon_and_then_less_often() -> None:
    book = make_book()
    book.want([ONE], T)
    now, waits = T, []
    for _ in range(12):
        assert book.due(now) == [ONE]
        book.failed(ONE, "nobody answers", now)
        due = book.wake_at()
        assert due is not None
        waits.append(due - now)
        now = due
    assert all(0.9 * want <= wait <= want for want, wait in zip([2, 4, 8, 16, 32, 64, 128, 256], waits, strict=False))
    assert all(270 <= wait <= 300 for wait in waits[8:])
    assert messages(book) == [("error", "no keys are had, so every token is refused: nobody answers")]


def test_assurance_15_prior_keys_are_kept_for_a_bounded_time_and_then_nothing_stands_in() -> None:
    book = make_book(keep_seconds=6 * HOUR)
    book.want([ONE], T)
    book.due(T)
    book.succeeded(ONE, SET, T)
    now = T
    while now < T + 6 * HOUR:
        assert book.expire(now) == set()
        assert book.keys([ONE]) == {ONE: SET.text}
        if book.due(now):
            book.failed(ONE, "status 503", now)
        wake = book.wake_at()
        assert wake is not None
        assert wake > now
        now = wake
    assert now - (T + 6 * HOUR) < 1  # it wakes for that moment
    assert messages(book) == [
        ("warning", "keys are not renewed: status 503; those known are kept until 12 Jan 19:46 UTC")
    ]
    assert book.states() == {ONE: "kept"}
    assert book.expire(now) == {ONE}
    assert book.keys([ONE]) == {ONE: ""}
    assert book.states() == {ONE: "none"}
    assert messages(book) == [("error", "no keys are had, so every token is refused: status 503")]
    assert book.succeeded(ONE, OTHER, now + 10) == {ONE}
    assert book.keys([ONE]) == {ONE: OTHER.text}


def test_a_failure_does_not_lengthen_the_time() -> None:
    book = make_book(keep_seconds=100, refresh_seconds=10)
    book.want([ONE], T)
    book.due(T)
    book.succeeded(ONE, SET, T)
    for now in (T + 20, T + 50, T + 99):
        book.failed(ONE, "x", now)
    assert book.expire(T + 100) == set()
    assert book.expire(T + 100.5) == {ONE}


def test_an_issuer_that_withdraws_its_keys_has_none_at_once() -> None:
    book = make_book()
    book.want([ONE], T)
    book.due(T)
    book.succeeded(ONE, SET, T)
    assert book.succeeded(ONE, EMPTY, T + 1) == {ONE}
    assert book.keys([ONE]) == {ONE: ""}
    assert messages(book) == [("error", "the set holds no usable key, so every token is refused")]


def test_faults_of_single_keys_are_told_beside_those_that_stand() -> None:
    book = make_book()
    book.want([ONE], T)
    book.succeeded(ONE, KeySet(SET.text, ("key 1 is not used: too short",)), T)
    assert messages(book) == [("warning", "of the set that was fetched, key 1 is not used: too short")]
    assert book.states() == {ONE: "fresh"}


def test_what_no_rule_names_any_more_is_forgotten() -> None:
    book = make_book()
    book.want([ONE], T)
    book.due(T)
    book.succeeded(ONE, SET, T)
    assert book.want([TWO], T + 1) == {ONE}
    assert book.keys([ONE]) == {ONE: ""}
    assert book.succeeded(ONE, SET, T + 2) == set()  # a fetch that was on its way
    book.failed(ONE, "late", T + 2)
    assert [source for source, _ in book.notes()] == []


def test_a_restart_goes_on_with_what_was_known_and_how_old_it_is() -> None:
    first = make_book(keep_seconds=HOUR)
    first.want([ONE, TWO], T)
    first.succeeded(ONE, SET, T)
    first.succeeded(TWO, OTHER, T + 600)
    saved = first.saved()
    assert {(one.url, one.fetched) for one in saved} == {(ONE.url, T), (TWO.url, T + 600)}

    again = make_book(keep_seconds=HOUR)
    again.remember(saved, T + HOUR + 100)  # the first one is too old by now
    assert again.want([ONE, TWO], T + HOUR + 100) == {TWO}
    assert again.keys([ONE, TWO]) == {ONE: "", TWO: OTHER.text}
    assert len(again.due(T + HOUR + 100)) == 2  # and all are fetched at once
    assert again.expire(T + 600 + HOUR + 1) == {TWO}


def test_what_is_read_from_disk_is_judged_like_what_was_fetched() -> None:
    book = make_book()
    book.remember(
        [
            Saved("uri", ONE.url, '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', T),
            Saved("issuer", TWO.url, "no JSON", T),
            Saved("file", "/etc/passwd", SET.text, T),
            Saved("uri", "https://three.test/", SET.text, T + 500),  # from the future
        ],
        T,
    )
    three = JwksSource("uri", "https://three.test/")
    book.want([ONE, TWO, three], T)
    assert book.keys([ONE, TWO, three]) == {ONE: "", TWO: "", three: ""}


def test_a_clock_that_is_set_back_makes_keys_no_older() -> None:
    book = make_book(keep_seconds=100, refresh_seconds=10)
    book.want([ONE], T)
    book.succeeded(ONE, SET, T)
    assert book.expire(T - 1000) == set()
    assert book.expire(T - 1000 + 100.5) == {ONE}
