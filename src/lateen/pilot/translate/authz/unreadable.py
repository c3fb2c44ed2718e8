"""Paths that servers read in two ways even when they are normalised: refused where a policy looks at paths.

Servers of Java cut parameters (`;x`) off each segment before they resolve dots, so that `/public/..;/admin` is `/admin`
to them, and `/;/admin` too. Envoy resolves `..;` but not `%2e%2e;`, which it decodes to the same. No client has a use
for a segment that is nothing but parameters, or dots and parameters.
"""

from __future__ import annotations

from typing import Final

from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.type.matcher.v3.path_pb2 import PathMatcher

from lateen.pilot.translate.authz.filters import http_rbac
from lateen.pilot.translate.authz.texts import expression

__all__ = ["UNREADABLE_PATHS"]

UNREADABLE_PATHS: Final[HttpFilter] = http_rbac(
    rules=RBAC(
        action=RBAC.DENY,
        policies={
            "unreadable-path": Policy(
                permissions=[Permission(url_path=PathMatcher(path=expression(r".*/\.{0,2};.*")))],
                principals=[Principal(any=True)],
            )
        },
    )
)
