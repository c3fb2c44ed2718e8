"""The moment to renew."""

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
