"""The moment to renew."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.wire.renewal import MAX_JITTER, renewal_time

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(hours=24)


@pytest.mark.parametrize(
    ("lifetime", "jitter", "after"),
    [
        pytest.param(DAY, 0.0, timedelta(hours=12), id="half-life"),
        pytest.param(DAY, 0.05, timedelta(hours=13, minutes=12), id="later"),
        pytest.param(DAY, -0.05, timedelta(hours=10, minutes=48), id="earlier"),
        pytest.param(DAY, 9.0, timedelta(hours=14, minutes=24), id="draw-too-large"),
        pytest.param(DAY, -9.0, timedelta(hours=9, minutes=36), id="draw-too-small"),
        pytest.param(timedelta(seconds=10), 0.0, timedelta(seconds=5), id="ten-seconds"),
    ],
)
def test_renewal_time(lifetime: timedelta, jitter: float, after: timedelta) -> None:
    assert renewal_time(START, START + lifetime, jitter) == START + after


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=3650)), st.floats(-MAX_JITTER, MAX_JITTER))
def test_always_well_inside_of_the_lifetime(lifetime: timedelta, jitter: float) -> None:
    moment = renewal_time(START, START + lifetime, jitter)
    assert START + lifetime * 0.39 <= moment <= START + lifetime * 0.61


def test_assurance_18_a_mesh_that_began_together_renews_over_hours() -> None:
    """20,000 certificates of 24 h that were issued in one minute: how many renewals fall into any half hour."""
    rng = random.Random(18)
    issued = [START + timedelta(seconds=rng.uniform(0, 60)) for _ in range(20_000)]
    for generation in range(3):
        due = [renewal_time(at, at + DAY, rng.uniform(-MAX_JITTER, MAX_JITTER)) for at in issued]
        windows = Counter(int((moment - START) / timedelta(minutes=30)) for moment in due)
        assert sum(windows.values()) == 20_000
        assert max(windows.values()) < 20_000 / 8, f"generation {generation}: no half hour has an eighth of them"
        assert all(at + DAY * 0.39 <= moment <= at + DAY * 0.61 for at, moment in zip(issued, due, strict=True))
        issued = due
    assert len(windows) > 20, "and each generation is spread further"
