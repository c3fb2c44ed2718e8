"""An authority, identities and a configuration server for the tests with real Envoys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.certs import StrangeAuthority
from tests.fakes.proxies import ConfigServer


@pytest.fixture(scope="session")
def authority() -> StrangeAuthority:
    return StrangeAuthority()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sockets, so with a short path."""
    return tmp_path_factory.mktemp("e")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ConfigServer]:
    server = ConfigServer(folder / "config.sock")
    yield server
    server.close()
