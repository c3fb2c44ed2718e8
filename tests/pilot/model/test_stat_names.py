"""What patterns of the mesh make of the names of statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lateen.api.protocol import Protocol
from lateen.pilot.model.stat_names import stat_name_of
from lateen.pilot.model.values import Hostname
from lateen.pilot.registry.values import Registry, Service, ServicePort

PORT = ServicePort(name="http", number=80, protocol=Protocol.HTTP, target=8080)
SERVICE = Service(
    hostname=Hostname("a.shop.svc.cluster.local"), name="a", namespace="shop", registry=Registry.SERVICE, ports=(PORT,)
)
OUTSIDE = replace(SERVICE, hostname=Hostname("api.test"), name="api.test", registry=Registry.SERVICE_ENTRY)


@pytest.mark.parametrize(
    ("service", "pattern", "name"),
    [
        pytest.param(SERVICE, "", "", id="none"),
        pytest.param(SERVICE, "%SERVICE%_%SERVICE_PORT%", "a.shop_80", id="service"),
        pytest.param(OUTSIDE, "%SERVICE%_%SERVICE_PORT%", "api.test_80", id="service outside"),
        pytest.param(SERVICE, "%SERVICE_NAME%/%SERVICE_FQDN%", "a/a.shop.svc.cluster.local", id="names"),
        pytest.param(SERVICE, "%SERVICE_PORT_NAME%-%TARGET_PORT%", "http-8080", id="port"),
        pytest.param(SERVICE, "%SUBSET_NAME%", "v1", id="subset"),
        pytest.param(SERVICE, "fixed %NOTHING%", "fixed %NOTHING%", id="unknown variables stay"),
    ],
)
def test_patterns(service: Service, pattern: str, name: str) -> None:
    assert stat_name_of(pattern, service, PORT, subset="v1") == name
