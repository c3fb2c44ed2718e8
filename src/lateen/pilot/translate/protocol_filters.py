"""Network filters that know an application's protocol: MongoDB and Redis.

In:  the name their statistics carry, and for Redis the one cluster that commands go to.
Out: one `envoy.config.listener.v3.Filter`. `mongo_proxy` only watches, so the TCP proxy stands behind it; `redis_proxy`
     is the last of its chain: it answers clients itself and sends each command to an endpoint of its own choice.
Rules: Istio's filters of these protocols, docs/protocols.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.network.mongo_proxy.v3.mongo_proxy_pb2 import MongoProxy
from envoy.extensions.filters.network.redis_proxy.v3.redis_proxy_pb2 import RedisProxy

from lateen.pilot.model.values import Cluster
from lateen.pilot.translate.names import stat_name
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration

__all__ = ["mongo_filter", "redis_filter"]

REDIS_TIMEOUT: Final = timedelta(seconds=5)  # Istio's, for the answer to one command

_SETTINGS: Final = RedisProxy.ConnPoolSettings(
    op_timeout=duration(REDIS_TIMEOUT),
    # A sharded client names with {braces} what must stay together; hashing the whole key would tear it apart.
    enable_hashtagging=True,
    enable_command_stats=True,
)


def mongo_filter(stat_prefix: str) -> Filter:
    """Return the filter that counts the operations of a connection and changes none of its bytes."""
    return Filter(
        name="envoy.filters.network.mongo_proxy", typed_config=pack(MongoProxy(stat_prefix=stat_name(stat_prefix)))
    )


def redis_filter(cluster: Cluster, stat_prefix: str) -> Filter:
    """Return the filter that ends Redis' protocol and sends commands to `cluster`, by the hash of their key."""
    return Filter(
        name="envoy.filters.network.redis_proxy",
        typed_config=pack(
            RedisProxy(
                stat_prefix=stat_name(stat_prefix),
                settings=_SETTINGS,
                prefix_routes=RedisProxy.PrefixRoutes(
                    catch_all_route=RedisProxy.PrefixRoutes.Route(cluster=cluster),
                ),
            )
        ),
    )
