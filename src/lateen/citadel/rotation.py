"""How what signs is replaced: a state machine without I/O and clock, whose every state survives a restart.

    STEADY        one set of material signs, its roots are believed
    DISTRIBUTING  another one is there: its roots are believed, too; nothing is signed by it
    REISSUING     it signs; the roots of the one before are believed until nothing of its kind is in use

    STEADY -> begin -> DISTRIBUTING -> every proxy has proven that it trusts both -> REISSUING
           -> every workload uses a new certificate, and the old ones have expired -> STEADY
    DISTRIBUTING lasts a while in any case, for those who can prove nothing
    abort: from DISTRIBUTING back to STEADY; from REISSUING on with the two exchanged: the old one signs again, at once

Who must have proven: every workload that is registered. One whose agent has ended is registered no more, and is no
obstacle; one that is away and may come back is, until an operator says to go on without it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

import msgspec

from lateen.errors import Refused

__all__ = [
    "Facts",
    "Phase",
    "RotationState",
    "Waiting",
    "abort",
    "advance",
    "begin",
    "finish",
    "go_without",
    "waits_for",
]


class Phase(enum.Enum):
    STEADY = "steady"
    DISTRIBUTING = "distributing"
    REISSUING = "reissuing"


class RotationState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All that has to survive a restart. Names are those of folders with material."""

    signing: str
    phase: Phase = Phase.STEADY
    other: str = ""  # DISTRIBUTING: what is to sign next; REISSUING: what has signed before
    reason: str = ""  # why, for people
    since: datetime | None = None  # of the phase
    leaves_until: datetime | None = None  # REISSUING: when the last certificate of the old kind expires
    without: tuple[str, ...] = ()  # workloads that are not waited for
    hurried: bool = False  # REISSUING: certificates that nobody reports are not waited for
    declined: str = (
        ""  # digest of plugged-in material that was aborted, or of the self-signed root that was gone back to
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A workload that is waited for, and what for."""

    workload: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the next step depends on."""

    untrusting: tuple[Waiting, ...] = ()  # have not proven that they trust all that is believed now
    unrenewed: tuple[Waiting, ...] = ()  # use a certificate that was signed another way than now
    roots_leave: bool = True  # the old material has roots that the new one has not
    settled: bool = True  # clients that prove nothing have had the time to read new roots


def begin(state: RotationState, other: str, reason: str, now: datetime) -> RotationState:
    """Return the state in which `other` is distributed. Raises `Refused` while a rotation is on."""
    if state.phase is Phase.REISSUING:
        raise Refused("a rotation is on: certificates are being reissued; wait, or abort it")
    return RotationState(
        signing=state.signing, phase=Phase.DISTRIBUTING, other=other, reason=reason, since=now, declined=state.declined
    )


def waits_for(state: RotationState, facts: Facts) -> tuple[Waiting, ...]:
    """Return the workloads that hold the rotation up."""
    missing = {
        Phase.STEADY: (),
        Phase.DISTRIBUTING: facts.untrusting,
        Phase.REISSUING: facts.unrenewed if facts.roots_leave else (),
    }[state.phase]
    return tuple(each for each in missing if each.workload not in state.without)


def advance(state: RotationState, facts: Facts, now: datetime, leaves_until: datetime) -> RotationState:
    """Return the state after what can be done now; the same one when something is still waited for.

    `leaves_until` is when the last certificate that was issued so far expires; it counts when signing changes hands.
    """
    if state.phase is Phase.STEADY or waits_for(state, facts):
        return state
    if state.phase is Phase.DISTRIBUTING and not facts.settled:
        return state
    if state.phase is Phase.DISTRIBUTING:
        return msgspec.structs.replace(
            state,
            phase=Phase.REISSUING,
            signing=state.other,
            other=state.signing,
            since=now,
            leaves_until=leaves_until,
        )
    if facts.roots_leave and not state.hurried and state.leaves_until is not None and now < state.leaves_until:
        return state
    return RotationState(signing=state.signing, declined=state.declined)


def abort(state: RotationState, now: datetime, leaves_until: datetime) -> RotationState:
    """Return the state in which the material from before signs on. Raises `Refused` when there is no rotation."""
    if state.phase is Phase.STEADY:
        raise Refused("no rotation is on; there is nothing to abort")
    if state.phase is Phase.DISTRIBUTING:
        return RotationState(signing=state.signing)
    return msgspec.structs.replace(
        state,
        signing=state.other,
        other=state.signing,
        reason=f"aborted: {state.reason}".removeprefix("aborted: aborted: "),
        since=now,
        leaves_until=leaves_until,
        hurried=False,
    )


def finish(state: RotationState, facts: Facts) -> RotationState:
    """Return the state in which no certificate is waited for that no workload reports.

    Raises `Refused` while workloads still use such ones: dropping their root would cut them off.
    """
    if state.phase is not Phase.REISSUING:
        raise Refused(f"the rotation is {state.phase.value}, only one that is reissuing can be finished")
    missing = waits_for(state, facts)
    if missing:
        names = ", ".join(each.workload for each in missing[:5])
        raise Refused(
            f"{len(missing)} workloads still use certificates of the old root ({names}): end them, or name them with "
            "--without to cut them off"
        )
    return msgspec.structs.replace(state, hurried=True)


def go_without(state: RotationState, workloads: tuple[str, ...]) -> RotationState:
    """Return the state in which these workloads are not waited for. Raises `Refused` when nobody is waited for."""
    if state.phase is Phase.STEADY:
        raise Refused("no rotation is on; nobody is waited for")
    return msgspec.structs.replace(state, without=tuple(sorted({*state.without, *workloads})))
