import pytest
from tests.agent.conftest import MemoryLog


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()
