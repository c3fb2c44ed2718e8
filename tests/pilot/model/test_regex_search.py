"""RE2's expressions, found in a text without Python's `re`: what matches, and that nothing takes for ever."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lateen.pilot.model.regex_search import regex_finds


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^1\.3.*", "1.30.1", True),
        (r"^1\.3.*", "1.20.3", False),
        (r"1\.(2[0-9]|30)$", "1.30", True),
        ("(?i)DEV", "1.2-dev", True),
        ("a(?i:B)c", "abc", True),
        ("a(?i:B)c", "abC", False),
        (r"[[:digit:]-]+z", "1-z", True),
        ("[^a-c]$", "c", False),
        (r"[\]a]+$", "a]", True),
        (r"\bfoo\b", "a foo b", True),
        (r"\bfoo\b", "food", False),
        (r"\Q1.3\E", "123", False),
        (r"\Q1.3\E$", "1.3", True),
        ("a{2,}", "a", False),
        ("^a{2,3}$", "aaaa", False),
        ("^$", "", True),
        (r"^\pN+$", "17", True),
        (r"^\x31\.", "1.", True),
        (r"(?P<name>\d+)\.(?:\d+)?", "1.", True),
        ("(?m)^b$", "a\nb", True),
        ("a.b", "a\nb", False),
        ("(?s)a.b", "a\nb", True),
        ("(?=a)", "a", False),
        ("(", "(", False),
    ],
)
def test_what_matches(pattern: str, text: str, found: bool) -> None:
    assert regex_finds(pattern, text) is found


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no fault of the pattern
@given(st.from_regex(r"\A[ab.|()*+?]{1,8}\Z"), st.text("ab", max_size=8))
def test_it_agrees_with_python_where_both_know_the_language(pattern: str, text: str) -> None:
    try:
        expected = re.search(pattern, text) is not None
    except re.error:
        return
    if re.search(r"[*+?][*+?]", pattern) is None and regex_finds(pattern, text) is not expected:
        # RE2 refuses some of what Python takes, and then nothing matches.
        from lateen.api.regex_syntax import regex_fault

        assert regex_fault(pattern) is not None


def test_what_takes_others_for_ever_takes_no_time() -> None:
    before = time.process_time()
    assert not regex_finds("(a+)+$", "a" * 250 + "!")
    assert not regex_finds("(a|a)*(a|a)*(a|a)*b", "a" * 250)
    assert not regex_finds("((a{1,10}){1,10}){1,10}b", "a" * 250)
    assert time.process_time() - before < 5
    assert not regex_finds("a", "a" * 10_000)  # longer than any version
