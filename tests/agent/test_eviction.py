"""What a workload's annotation says of series that nobody touches."""

from __future__ import annotations

import pytest

from lateen.agent.eviction import ANNOTATION, eviction_seconds
from lateen.errors import BadInput


@pytest.mark.parametrize(
    ("annotations", "seconds"),
    [
        pytest.param({}, 3600, id="unsaid"),
        pytest.param({ANNOTATION: "10m"}, 600, id="said"),
        pytest.param({ANNOTATION: "1h0m5s"}, 3605, id="in parts"),
        pytest.param({ANNOTATION: "0s"}, 0, id="never"),
    ],
)
def test_an_interval_is_what_the_annotation_says(annotations: dict[str, str], seconds: int) -> None:
    assert eviction_seconds(annotations) == seconds


@pytest.mark.parametrize("text", ["", "soon", "7s", "-5s", "2500ms"])
def test_an_interval_that_envoy_would_not_take_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=ANNOTATION) as refused:
        eviction_seconds({ANNOTATION: text})
    assert repr(text) in str(refused.value)
