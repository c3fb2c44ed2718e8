"""What tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.agent.conftest import until


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    return until
