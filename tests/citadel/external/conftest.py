"""A real OpenBao for all tests of this folder, and configuration files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.kube_api import KubeApi
from tests.fakes.openbao import OpenBao
from tests.fakes.ports import free_port

from lateen.citadel.external.config import AuthorityConfig, load_authority_config


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[KubeApi]:
    api = KubeApi(tmp_path)
    yield api
    api.close()


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], AuthorityConfig]:
    def load(text: str) -> AuthorityConfig:
        path = tmp_path / "authority.yaml"
        path.write_text(text)
        return load_authority_config(path, "cluster.local")

    return load
