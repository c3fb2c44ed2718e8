"""The tasting Envoy's bootstrap and environment: as a proxy's where that decides what it takes, silent otherwise.

It gets clusters and listeners over one delta ADS stream from a Unix socket. It has no admin interface, writes no stats,
and asks a resolver that nobody runs: it must not reach for anything.
"""

from __future__ import annotations

import json
from typing import Any, Final

from lateen.wire.envoy import RUNTIME, SDS_CLUSTER, XDS_CLUSTER
from lateen.wire.peer_env import peer_environment

__all__ = ["ENVIRONMENT", "encode_bootstrap"]

# Listeners name these variables, which Envoy reads when it loads them.
ENVIRONMENT: Final = peer_environment(workload="taste", namespace="lateen", cluster="lateen", labels={})
_NOWHERE: Final = {"socket_address": {"address": "127.0.0.1", "port_value": 1}}


def encode_bootstrap(socket: str) -> bytes:
    """Return the document as Envoy reads it from a file ending in `.json`; `socket` is where it gets its resources."""
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    document = {
        "node": {"id": "taste", "cluster": "taste"},
        "dynamic_resources": {
            "cds_config": ads,
            "lds_config": ads,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "taste"}}],
            },
        },
        "static_resources": {
            "clusters": [
                _cluster("taste", {"pipe": {"path": socket}}),
                # A proxy has these two; no secret is given out here.
                *(_cluster(name, {"pipe": {"path": "/nowhere"}}) for name in (SDS_CLUSTER, XDS_CLUSTER)),
            ]
        },
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [_NOWHERE],
            },
        },
        "stats_config": {"stats_matcher": {"reject_all": True}, "use_all_default_tags": False},
        "layered_runtime": {"layers": [{"name": "global config", "static_layer": dict(RUNTIME)}]},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                },
            }
        ],
    }
    return json.dumps(document).encode()


def _cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
