"""Build Envoy's bootstrap: who it is, where it gets its configuration, what it counts.

In:  one `BootstrapInput`. Out: plain JSON values; Envoy's messages would cost an agent memory for one document.
Rules: Istio's bootstrap, docs/design/0005-agent.md "Bootstrap". Same input, same document.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lateen.agent.eviction import FLUSH_SECONDS
from lateen.agent.spec import Node
from lateen.wire.envoy import RUNTIME, SDS_CLUSTER, XDS_CLUSTER
from lateen.wire.local import AGENTS_CHOICE, ProxySettings
from lateen.wire.local_cluster import LOCAL_CLUSTER, local_endpoints_name
from lateen.wire.readers import Networks
from lateen.wire.series import EVICTION_SECONDS

__all__ = ["PROMETHEUS_PORT", "BootstrapInput", "build_bootstrap", "encode_bootstrap"]

PROMETHEUS_PORT: Final = 15090
CONTROL_PLANE_ROOTS: Final = "CONTROLPLANECA"  # of the mesh alone, whoever else peers may be (`secret_store`)
ADMIN_CLUSTER: Final = "prometheus_stats"
APPLICATION_CLUSTER: Final = "application_metrics"
PILOT_NAME: Final = "pilot.lateen.local"  # of the control plane's certificate; a Unix socket's path cannot be in one

SOL_SOCKET: Final = 1  # asm-generic/socket.h
SO_MARK: Final = 36
MAX_CONNECTIONS: Final = 2**31 - 1  # unlimited, as Istio writes it
XDS_REQUESTS: Final = 100_000  # Envoy's own limit of 1024 would hold streams of the control plane to it

# Whatever else a mesh counts is not made at all: stats that nobody reads were once most of a sidecar's memory.
STATS_PREFIXES: Final = (
    "reporter=",
    "component",
    "istio",  # what the stats access logger writes
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "wasm",
)
STATS_SUFFIXES: Final = (
    "rbac.allowed",
    "rbac.denied",
    "shadow_allowed",
    "shadow_denied",
    "downstream_cx_active",  # these two tell when a proxy that leaves has nothing left to do
    "downstream_rq_active",
)
STATS_REGEXES: Final = (
    r"vhost\..*\.route\..*",
    # Of both the operations only: Redis' filter would add three more for each of its two hundred commands, and
    # MongoDB's would count by collection, as many as an application has.
    r"redis\.[^;]+;\.(downstream_|splitter\.).*",
    r"redis\.[^;]+;\.command\.\w+\.(total|error)",
    r"mongo\.[^;]+;\.(op_|decoding_error|cx_).*",
)

# Tag -> what is cut from a stat's name (outer group) and becomes the tag's value (inner group). Names of clusters and
# listeners hold dots themselves; translation ends them with `;` (`alt_stat_name`, `stat_prefix`).
STATS_TAGS: Final[Mapping[str, str]] = {
    "cluster_name": r"^cluster(\.([^;]+);)",
    "http_conn_manager_prefix": r"^http(\.([^;]+);)",
    "tcp_prefix": r"^tcp(\.([^;]+?);?)\.\w+$",
    "mongo_prefix": r"^mongo(\.([^;]+);)",
    "redis_prefix": r"^redis(\.([^;]+);)",
    "listener_address": r"^listener(\.(.+?))\.(?:worker_\d+\.)?downstream_cx_active$",
    "response_code": r"_rq(_(\d{3}))$",
    "response_code_class": r"_rq(_(\dxx))$",
    "authz_enforce_result": r"rbac(\.(allowed|denied))$",
    "authz_dry_run_action": r"rbac(\.istio_dry_run_(allow|deny)_)\.",
    "authz_dry_run_result": r"rbac\..+(\.shadow_(allowed|denied))$",
}

# Istio's, which are Envoy's own defaults: written out, since dashboards depend on them.
BUCKETS: Final = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
)  # fmt: skip

# How soon a lost stream is opened again. Envoy's own limit of 30 s suits thousands of proxies behind one address; here
# a control plane that comes back should steer again within seconds, and the jitter still spreads the proxies.
RECONNECT: Final = {"base_interval": "0.2s", "max_interval": "2s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapInput:
    """All that one bootstrap depends on. Paths are absolute, and short enough for sockets."""

    node: Node
    xds: str  # a socket's path, or HOST:PORT
    sds_socket: str
    admin_socket: str
    prometheus_address: str  # where 15090 is bound
    metrics_readers: Networks  # who is answered there
    mark: int | None  # of sockets towards upstreams; None where nothing is captured
    own_service: str = ""  # hostname, for sharing between zones; "" for a proxy that does not
    server_name: str = PILOT_NAME
    proxy: ProxySettings = AGENTS_CHOICE  # what the mesh says: statistics, runtime, limits
    eviction_seconds: int = EVICTION_SECONDS  # 0: never
    application_metrics: tuple[str, int] | None = None  # socket by which the agent asks, port of the application


def build_bootstrap(inp: BootstrapInput) -> dict[str, Any]:
    """Return the bootstrap. Does not raise."""
    return {
        "node": {
            "id": inp.node.id,
            "cluster": inp.node.cluster,
            "metadata": dict(inp.node.metadata),
            **({"locality": dict(inp.node.locality)} if inp.node.locality else {}),
        },
        # The folder is its user's alone already; but whoever reaches this socket commands the proxy.
        "admin": {"address": {"pipe": {"path": inp.admin_socket, "mode": 0o600}}, "access_log": []},
        "dynamic_resources": {
            "cds_config": _ads(),
            "lds_config": _ads(),
            "ads_config": _grpc(XDS_CLUSTER, "DELTA_GRPC"),
        },
        "static_resources": {
            "clusters": [
                _xds_cluster(inp),
                _pipe_cluster(SDS_CLUSTER, inp.sds_socket, http2=True),
                _admin(inp),
                *([_own_service(inp.own_service)] if inp.own_service else []),
                *([_application_cluster(inp.application_metrics[1])] if inp.application_metrics else []),
            ],
            "listeners": [
                _prometheus_listener(inp.prometheus_address, inp.metrics_readers),
                *([_application_listener(inp.application_metrics[0])] if inp.application_metrics else []),
            ],
        },
        "cluster_manager": {
            **_cluster_manager(inp.mark),
            **({"local_cluster_name": LOCAL_CLUSTER} if inp.own_service else {}),
        },
        "stats_config": _stats_config(inp.proxy),
        "stats_flush_interval": f"{FLUSH_SECONDS}s",
        **({"stats_eviction_interval": f"{inp.eviction_seconds}s"} if inp.eviction_seconds else {}),
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "layered_runtime": {
            "layers": [
                {"name": "global config", "static_layer": {**RUNTIME, **_runtime(inp.proxy.runtime)}},
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _type("resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
                        "max_active_downstream_connections": inp.proxy.connection_limit or MAX_CONNECTIONS,
                    },
                }
            ]
        },
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": _type("bootstrap.internal_listener.v3.InternalListener"),
                    "buffer_size_kb": 64,
                },
            }
        ],
    }


def encode_bootstrap(document: Mapping[str, Any]) -> bytes:
    """Return a document as Envoy reads it from a file ending in `.json`."""
    return json.dumps(document, indent=1).encode()


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.extensions.{name}"


def _pipe(path: str) -> dict[str, Any]:
    return {"pipe": {"path": path}}


def _ads() -> dict[str, Any]:
    # No time limit: a proxy without configuration must carry nothing, however long the control plane takes.
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def _grpc(cluster: str, api_type: str) -> dict[str, Any]:
    return {
        "api_type": api_type,
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster, "retry_policy": {"retry_back_off": RECONNECT}}}],
    }


def _xds_cluster(inp: BootstrapInput) -> dict[str, Any]:
    limits = [
        {
            "priority": priority,
            "max_connections": XDS_REQUESTS,
            "max_pending_requests": XDS_REQUESTS,
            "max_requests": XDS_REQUESTS,
        }
        for priority in ("DEFAULT", "HIGH")
    ]
    local = inp.xds.startswith("/")
    cluster = _pipe_cluster(XDS_CLUSTER, inp.xds, http2=True) if local else _host_cluster(XDS_CLUSTER, inp.xds)
    return {
        **cluster,
        "circuit_breakers": {"thresholds": limits},
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _type("transport_sockets.tls.v3.UpstreamTlsContext"),
                "sni": inp.server_name,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_2",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificate_sds_secret_configs": [_secret("default")],
                    "combined_validation_context": {
                        "default_validation_context": {
                            "match_typed_subject_alt_names": [
                                {"san_type": "DNS", "matcher": {"exact": inp.server_name}}
                            ]
                        },
                        "validation_context_sds_secret_config": _secret(CONTROL_PLANE_ROOTS),
                    },
                },
            },
        },
    }


def _secret(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "sds_config": {
            "api_config_source": _grpc(SDS_CLUSTER, "GRPC"),
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",
        },
    }


def _admin(inp: BootstrapInput) -> dict[str, Any]:
    return _pipe_cluster(ADMIN_CLUSTER, inp.admin_socket, http2=False)


def _pipe_cluster(name: str, path: str, *, http2: bool) -> dict[str, Any]:
    protocol: dict[str, Any] = {"http_protocol_options": {}}
    if http2:
        # No keepalive pings: gRPC's servers take them for abuse (one in five minutes is what they allow), and a Unix
        # socket's other end cannot vanish unseen.
        protocol = {"http2_protocol_options": {}}
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STATIC",
        "connect_timeout": "1s",
        # A mark is of no use to a Unix socket: this replaces the cluster manager's binding by none.
        "upstream_bind_config": {"socket_options": []},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _pipe(path)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _type("upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": protocol,
            }
        },
    }


def _host_cluster(name: str, address: str) -> dict[str, Any]:
    """Return a cluster of a control plane elsewhere; over a network its end may vanish unseen."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    socket_address = {"address": host, "port_value": int(port)}
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": socket_address}}}]}],
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 10}
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _type("upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {
                    # The control plane allows a ping every 20 s there.
                    "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
                },
            }
        },
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _own_service(hostname: str) -> dict[str, Any]:
    # Nothing is sent through it: where its endpoints are is what zones are balanced by.
    return {
        "name": LOCAL_CLUSTER,
        "alt_stat_name": f"{LOCAL_CLUSTER};",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "service_name": local_endpoints_name(hostname),
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
        },
    }


def _cluster_manager(mark: int | None) -> dict[str, Any]:
    if mark is None:
        return {}
    option = {"level": SOL_SOCKET, "name": SO_MARK, "int_value": mark, "state": "STATE_PREBIND"}
    return {"upstream_bind_config": {"socket_options": [{"description": "not captured again", **option}]}}


def _prometheus_listener(address: str, readers: Networks) -> dict[str, Any]:
    principals = [
        {"direct_remote_ip": {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}}
        for network in readers
    ]
    return {
        "name": "prometheus",
        "address": {"socket_address": {"address": address, "port_value": PROMETHEUS_PORT}},
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.rbac",
                        "typed_config": {
                            "@type": _type("filters.network.rbac.v3.RBAC"),
                            "stat_prefix": "prometheus",
                            "rules": {
                                "action": "ALLOW",
                                "policies": {"readers": {"permissions": [{"any": True}], "principals": principals}},
                            },
                        },
                    },
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": _type("filters.network.http_connection_manager.v3.HttpConnectionManager"),
                            "stat_prefix": "stats",
                            "codec_type": "AUTO",
                            "route_config": {"name": "prometheus", "virtual_hosts": [_stats_host()]},
                            "http_filters": [
                                {
                                    "name": "envoy.filters.http.router",
                                    "typed_config": {"@type": _type("filters.http.router.v3.Router")},
                                }
                            ],
                        },
                    },
                ]
            }
        ],
    }


def _application_cluster(port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": APPLICATION_CLUSTER,
        "alt_stat_name": f"{APPLICATION_CLUSTER};",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": APPLICATION_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _application_listener(socket: str) -> dict[str, Any]:
    # Bytes, to one port of the workload's loopback: what they say is between the agent and the application.
    return {
        "name": APPLICATION_CLUSTER,
        "address": {"pipe": {"path": socket, "mode": 0o600}},
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": _type("filters.network.tcp_proxy.v3.TcpProxy"),
                            "stat_prefix": APPLICATION_CLUSTER,
                            "cluster": APPLICATION_CLUSTER,
                        },
                    }
                ]
            }
        ],
    }


def _stats_host() -> dict[str, Any]:
    # Only this one path: what else the admin interface can do is not for the network.
    route = {"match": {"path": "/stats/prometheus"}, "route": {"cluster": ADMIN_CLUSTER}}
    return {"name": "stats", "domains": ["*"], "routes": [route]}


def _runtime(values: Mapping[str, str]) -> dict[str, Any]:
    """Return runtime flags with the types that Envoy wants: numbers and booleans are written as text in the API."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _stats_config(proxy: ProxySettings) -> dict[str, Any]:
    return {
        "use_all_default_tags": False,
        "stats_tags": [{"tag_name": name, "regex": regex} for name, regex in STATS_TAGS.items()],
        "stats_matcher": {
            "inclusion_list": {
                "patterns": [
                    *_patterns("prefix", (*STATS_PREFIXES, *proxy.stats_prefixes)),
                    *_patterns("suffix", (*STATS_SUFFIXES, *proxy.stats_suffixes)),
                    *({"safe_regex": {"regex": regex}} for regex in (*STATS_REGEXES, *proxy.stats_regexes)),
                ]
            }
        },
        "histogram_bucket_settings": [{"match": {"prefix": "istio"}, "buckets": list(BUCKETS)}],
    }


def _patterns(kind: str, texts: Sequence[str]) -> list[dict[str, str]]:
    return [{kind: text} for text in texts]
