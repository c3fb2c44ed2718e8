"""One Envoy for all tests of what it does with policies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.court import Court
from tests.strategies.policies import IDENTITIES, STRANGE, TRUST_DOMAINS


@pytest.fixture(scope="package")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    with Court(tmp_path_factory.mktemp("c"), identities=IDENTITIES, trust_domains=(*TRUST_DOMAINS, STRANGE)) as court:
        yield court
