"""Hosts as resources write them: short names, wildcards, which of two is more specific.

`*` in front stands for any text, so a comparison is a test of the suffix behind it: `*.foo.com` covers `a.b.foo.com`,
not `foo.com`; `*` covers everything. Compare lower-cased names. Rules: docs/api/README.md "Host matching" and
"Short names".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lateen.api.names import is_ip

__all__ = [
    "covering_patterns",
    "host_covers",
    "host_is_subset",
    "hosts_overlap",
    "most_specific_host",
    "resolve_short_name",
    "specificity_key",
]


def resolve_short_name(host: str, namespace: str, cluster_domain: str = "cluster.local") -> str:
    """Return what `host` means in a resource of `namespace`: a name without any dot is a Service of that namespace.

    Everything else is returned as it is: names with a dot, `*`, IP addresses.
    """
    if not host or "." in host or host == "*" or is_ip(host):
        return host
    return f"{host}.{namespace}.svc.{cluster_domain}"


def host_covers(pattern: str, host: str) -> bool:
    """True when every name that `host` stands for is also one of `pattern`'s."""
    if pattern == host:
        return True
    return pattern.startswith("*") and host.removeprefix("*").endswith(pattern[1:])


def host_is_subset(host: str, pattern: str) -> bool:
    """`host_covers` the other way round: `host` is covered by `pattern`. A wildcard is in no exact name."""
    return host_covers(pattern, host)


def hosts_overlap(one: str, other: str) -> bool:
    """True when there is a name that both stand for."""
    return host_covers(one, other) or host_covers(other, one)


def covering_patterns(host: str) -> Iterator[str]:
    """Yield every pattern but `host` itself that covers it, most specific first. At most 255 of them."""
    rest = host.removeprefix("*")
    for start in range(host.startswith("*"), len(rest) + 1):
        yield f"*{rest[start:]}"


def specificity_key(host: str) -> tuple[bool, int, str]:
    """Return a key that sorts the more specific host first: exact before wildcard, then longer, then by letters."""
    return ("*" in host, -len(host), host)


def most_specific_host(needle: str, hosts: Iterable[str]) -> str | None:
    """Return the entry of `hosts` that speaks for `needle`: itself if it is there, else the most specific wildcard."""
    entries = set(hosts)
    if needle in entries:
        return needle
    return next((pattern for pattern in covering_patterns(needle) if pattern in entries), None)
