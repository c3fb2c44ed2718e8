"""Answer names from the mesh's name table: which aliases a host has, wildcards, the search domain.

In:  the name table, who asks. Out: addresses, or the verdict that the table does not know. Pure; no packets in here.
Rules: Istio's DNS proxy, docs/design/0005-agent.md "Names".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Answer", "Entry", "Names", "build_names", "search_domains"]

MAX_NAME_CHARACTERS: Final = 253  # RFC 1035, without the closing dot


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the name table."""

    ips: tuple[str, ...]
    shortname: str = ""  # of a Kubernetes host, else ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a known name resolves to. `alias` is the name that stands for it (a CNAME), "" for itself."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    alias: str = ""
    entry: bool = False  # of a ServiceEntry: what else its name may mean, the outside's own DNS knows


@dataclass(frozen=True, slots=True)
class Names:
    """The table as one workload sees it. Names are lower case, without the closing dot."""

    search: str  # first search domain, "default.svc.cluster.local"
    domain: str  # "cluster.local"
    _exact: Mapping[str, Answer] = field(repr=False)
    _wildcard: Mapping[str, Answer] = field(repr=False)  # by what follows "*."

    def __len__(self) -> int:
        return len(self._exact) + len(self._wildcard)

    def lookup(self, name: str) -> Answer | None:
        """Return the answer for `name`, in any case, with or without the closing dot; None when it is not known."""
        name = name.lower().removesuffix(".")
        if len(name) > MAX_NAME_CHARACTERS:
            return None
        found = self._exact.get(name)
        if found is not None:
            return found
        # Resolvers try "<name>.<search domain>" before the name itself: one answer saves them the other attempts.
        base = name.removesuffix(f".{self.search}")
        if base != name:
            found = self._exact.get(base) or self._by_wildcard(base)
            if found is not None:
                return Answer(found.ipv4, found.ipv6, alias=base, entry=found.entry)
        return self._by_wildcard(name)

    def is_in_domain(self, name: str) -> bool:
        """Whether `name` is below the mesh's own domain, for which nobody else can answer."""
        return name.lower().removesuffix(".").endswith(f".{self.domain}")

    def _by_wildcard(self, name: str) -> Answer | None:
        if not self._wildcard:
            return None
        rest = name
        while rest:  # the longest suffix first
            _, _, rest = rest.partition(".")
            found = self._wildcard.get(rest)
            if rest and found is not None:
                return found
        return None


def build_names(table: Mapping[str, Entry], *, namespace: str, domain: str) -> Names:
    """Return the table for a workload of `namespace`; entries that are no address are left out."""
    exact: dict[str, Answer] = {}
    wildcard: dict[str, Answer] = {}
    aliases: dict[str, Answer] = {}
    for host in sorted(table):
        entry = table[host]
        answer = _answer(entry)
        name = host.lower().removesuffix(".")
        if name.startswith("*."):
            wildcard[name[2:]] = answer
            continue
        exact[name] = answer
        for alias in _aliases(name, entry, namespace=namespace, domain=domain):
            aliases[alias] = answer
    # A host that is really called so (a ServiceEntry for "reviews") comes before another host's short name.
    return Names(search_domains(namespace, domain)[0], domain, {**aliases, **exact}, wildcard)


def search_domains(namespace: str, domain: str) -> tuple[str, ...]:
    """Return the domains that an application's resolver tries, in order: as in a Kubernetes pod."""
    return (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)


def _aliases(name: str, entry: Entry, *, namespace: str, domain: str) -> Iterable[str]:
    if not entry.shortname or not entry.namespace or not name.endswith(f".svc.{domain}"):
        return
    short, owner = entry.shortname.lower(), entry.namespace.lower()
    yield f"{short}.{owner}"
    yield f"{short}.{owner}.svc"
    if owner == namespace:
        yield short


def _answer(entry: Entry) -> Answer:
    ipv4: list[str] = []
    ipv6: list[str] = []
    for text in dict.fromkeys(entry.ips):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        (ipv4 if address.version == 4 else ipv6).append(str(address))
    return Answer(tuple(ipv4), tuple(ipv6), entry=not entry.shortname)
