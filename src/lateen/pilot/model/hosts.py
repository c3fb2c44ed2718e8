"""Hosts of resources as the registry spells them, and the patterns by which a resource may mean a host.

Rules: docs/api/README.md "Short names" and "Host matching".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from lateen.api.hosts import resolve_short_name
from lateen.pilot.model.values import Hostname
from lateen.pilot.registry.services import CLUSTER_DOMAIN

__all__ = ["full_name", "host_patterns"]


@lru_cache(maxsize=1 << 14)  # a thousand rules name a handful of hosts, and each is asked for in several places
def full_name(host: str, namespace: str) -> Hostname:
    """Return the FQDN that `host` means in a resource of `namespace`: lower case, without a dot at its end."""
    return Hostname(resolve_short_name(host, namespace, CLUSTER_DOMAIN).lower().rstrip("."))


def host_patterns(hostname: str) -> Iterator[str]:
    """Yield what a rule may write to mean `hostname`, most specific first: itself, then ever shorter wildcards.

    Wildcards that end within a label, as in `*-east.shop.com`, are not among them: see
    `lateen.api.names.is_partial_wildcard`.
    """
    yield hostname
    rest = hostname
    while "." in rest:
        rest = rest.partition(".")[2]
        wildcard = f"*.{rest}"
        if rest and wildcard != hostname:
            yield wildcard
    if hostname != "*":
        yield "*"
