"""What the kernel makes of a short turn: the same share of a processor, by the thread that asked and what it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lateen.net.kernel import turn_of

CHILD = """
import os, sys, threading
from lateen.net.kernel import set_turn, turn_of
if sys.argv[2] == "batch":
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.nice(3)
said = set_turn(int(sys.argv[1]))
thread = threading.Thread(target=lambda: print(turn_of(0)))
print(int(said), os.sched_getscheduler(0), os.nice(0), turn_of(0))
thread.start()
"""
TURN = 200_000


def in_a_child(policy: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(TURN), policy], check=True, capture_output=True, text=True, timeout=30
    )
    return [int(word) for word in done.stdout.split()]


def takes_turns() -> bool:
    """Tell whether this kernel has a length of a turn for each thread: from Linux 6.12 on."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (6, 12)


@pytest.mark.skipif(not takes_turns(), reason="needs Linux 6.12")
def test_a_thread_and_those_it_starts_run_shorter_at_the_same_priority() -> None:
    assert in_a_child("other") == [1, os.SCHED_OTHER, 3, TURN, TURN]


@pytest.mark.skipif(takes_turns(), reason="a Linux before 6.12 is wanted")
def test_an_older_kernel_takes_it_and_says_that_it_is_not_so() -> None:
    assert in_a_child("other")[:3] == [0, os.SCHED_OTHER, 3]


def test_a_policy_of_the_operators_stays() -> None:
    own = turn_of(0)
    said, policy, nice, turn, inherited = in_a_child("batch")
    assert (said, policy, nice) == (0, os.SCHED_BATCH, 3)
    assert turn == inherited == own


def test_a_thread_that_is_not_there_is_told() -> None:
    with pytest.raises(ProcessLookupError):
        turn_of(2**22 + 1)  # above the most that pid_max may be
