"""The shop's own YAML: read without a word, and no more than what the tutorials start from."""

from __future__ import annotations

from pathlib import Path

import lateen.demo.shop
from lateen.api.decode import decode_documents

CONFIG = Path(lateen.demo.shop.__file__).parent / "config"
SERVICES = ("details", "productpage", "ratings", "reviews")


def test_the_shop_brings_services_identities_and_a_way_in() -> None:
    objects = {}
    for path in sorted(CONFIG.iterdir()):
        decoded = decode_documents(path.read_bytes(), path.name)
        assert decoded.problems == ()
        objects.update({(obj.key.kind, obj.key.name): obj for obj in decoded.objects})
    assert sorted(objects) == sorted(
        [
            ("Gateway", "bookinfo-gateway"),
            ("VirtualService", "bookinfo"),
            *(("Service", name) for name in SERVICES),
            *(("ServiceAccount", f"bookinfo-{name}") for name in SERVICES),
        ]
    )
    for name in SERVICES:
        service = objects["Service", name].spec
        assert service.selector == {"app": name}
        assert [(port.name, port.port) for port in service.ports] == [("http", 9080)]
    gateway, virtual = objects["Gateway", "bookinfo-gateway"].spec, objects["VirtualService", "bookinfo"].spec
    assert gateway.selector == {"istio": "ingressgateway"}
    assert virtual.gateways == ("bookinfo-gateway",)
    assert {route.destination.host for rule in virtual.http for route in rule.route} == {"productpage"}
