"""The state machine of a rotation: each step, what it waits for, and ways back."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.fakes.certs import START

from lateen.citadel.rotation import (
    Facts,
    Phase,
    RotationState,
    Waiting,
    abort,
    advance,
    begin,
    finish,
    go_without,
    waits_for,
)
from lateen.errors import Refused

LATER = START + timedelta(hours=24)  # when the last old certificate expires
A, B = Waiting("a", "away"), Waiting("b", "slow")
STEADY = RotationState(signing="old")
DISTRIBUTING = begin(STEADY, "new", "asked for", START)
REISSUING = advance(DISTRIBUTING, Facts(), START, LATER)


def test_the_way_from_one_root_to_another() -> None:
    assert (DISTRIBUTING.phase, DISTRIBUTING.signing, DISTRIBUTING.other) == (Phase.DISTRIBUTING, "old", "new")
    assert advance(DISTRIBUTING, Facts(untrusting=(A,)), START, LATER) is DISTRIBUTING
    assert (REISSUING.phase, REISSUING.signing, REISSUING.other) == (Phase.REISSUING, "new", "old")
    assert REISSUING.leaves_until == LATER
    assert advance(REISSUING, Facts(unrenewed=(A,)), LATER, LATER) is REISSUING
    assert advance(REISSUING, Facts(), LATER - timedelta(seconds=1), LATER) is REISSUING
    assert advance(REISSUING, Facts(), LATER, LATER) == RotationState(signing="new")
    assert advance(STEADY, Facts(untrusting=(A,), unrenewed=(A,)), LATER, LATER) is STEADY


def test_roots_that_stay_are_not_waited_for() -> None:
    facts = Facts(unrenewed=(A,), roots_leave=False)
    assert advance(REISSUING, facts, START, LATER) == RotationState(signing="new")


@pytest.mark.parametrize("state", [STEADY, DISTRIBUTING, REISSUING], ids=lambda state: state.phase.value)
def test_every_state_survives_a_restart(state: RotationState) -> None:
    assert msgspec.json.decode(msgspec.json.encode(state), type=RotationState) == state


def test_back_before_anything_was_signed() -> None:
    assert abort(DISTRIBUTING, LATER, LATER) == STEADY


def test_back_after_the_new_root_has_signed_is_a_way_of_its_own() -> None:
    back = abort(REISSUING, START, LATER)
    assert (back.phase, back.signing, back.other) == (Phase.REISSUING, "old", "new")
    assert advance(back, Facts(unrenewed=(B,)), LATER, LATER) is back
    assert advance(back, Facts(), LATER, LATER) == STEADY
    assert abort(back, START, LATER).signing == "new"


def test_who_is_left_behind_is_not_waited_for() -> None:
    facts = Facts(untrusting=(A, B))
    assert waits_for(DISTRIBUTING, facts) == (A, B)
    one = go_without(DISTRIBUTING, ("a",))
    assert waits_for(one, facts) == (B,)
    both = go_without(one, ("b",))
    assert advance(both, facts, START, LATER).phase is Phase.REISSUING
    with pytest.raises(Refused, match="nobody is waited for"):
        go_without(STEADY, ("a",))


def test_finishing_does_not_cut_anybody_off() -> None:
    with pytest.raises(Refused, match=r"1 workloads still use certificates of the old root \(a\)"):
        finish(REISSUING, Facts(unrenewed=(A,)))
    with pytest.raises(Refused, match="is distributing, only one that is reissuing"):
        finish(DISTRIBUTING, Facts())
    assert advance(finish(REISSUING, Facts()), Facts(), START, LATER) == RotationState(signing="new")


def test_one_rotation_at_a_time() -> None:
    assert begin(DISTRIBUTING, "newer", "again", START).other == "newer"
    with pytest.raises(Refused, match="a rotation is on"):
        begin(REISSUING, "newer", "again", START)
    with pytest.raises(Refused, match="nothing to abort"):
        abort(STEADY, START, LATER)
