"""Random resources that the checks take lead to nothing that Envoy refuses. `make fuzz` draws ten thousand of them.

A refusal here is a defect: a check that is missing, with its place in the file, or a translation.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.strategies.envoy import critic
from tests.strategies.resources import resource

WANTED = int(os.environ.get("LATEEN_FUZZ_RESOURCES", "200"))
SEED = int(os.environ.get("LATEEN_FUZZ_SEED", "1"))
LEAST, MOST = 4, 8  # resources of one mesh
KEPT = 0.7  # at least, of those that are drawn: the rest cannot be mended, or has the name of another


@pytest.mark.envoy
@pytest.mark.timeout(120 + WANTED // 2)
def test_envoy_refuses_nothing_that_the_checks_take(tmp_path_factory: pytest.TempPathFactory) -> None:
    with critic(tmp_path_factory.mktemp("t")) as envoy:

        @seed(SEED)
        @settings(
            max_examples=int(WANTED / KEPT / ((LEAST + MOST) / 2)) + 1,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(resource(), min_size=LEAST, max_size=MOST))
        def meshes(drawn: list[dict[str, Any]]) -> None:
            refused = envoy.rejections(drawn)
            assert not refused, "\n\n".join(map(str, refused))

        meshes()
        print(f"{envoy.resources} resources, {envoy.contents} contents for Envoy")
        assert envoy.resources > WANTED / 2
        assert envoy.contents > WANTED / 8
