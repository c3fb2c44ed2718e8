"""Read from a proxy's listeners who may pass: rules, tokens and mutual TLS, port by port.

In:  `envoy.config.listener.v3.Listener` messages as plain mappings, as Envoy's admin interface gives them.
Out: what they hold, in words of Istio. Nothing in here knows what the control plane meant to send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

__all__ = ["Guarded", "HeldIssuer", "HeldPolicy", "held_guards"]

Message = Mapping[str, Any]

EMPTY: Final[Mapping[str, Message]] = MappingProxyType({})
ANY_PORT: Final = 0
CAPTURE_PORT: Final = 15006  # of the listener whose chains name the ports; see ARCHITECTURE.md
_RULE: Final = re.compile(
    r"(?:istio-ext-authz-(?P<provider>.+?)-)?ns\[(?P<ns>[^\]]*)\]-policy\[(?P<name>[^\]]*)\]-rule\[\d+\]"
)
_ACTIONS: Final = {"LOG": "AUDIT"}
_DRY_RUN: Final = "istio_dry_run_"


@dataclass(frozen=True, slots=True, order=True)
class HeldPolicy:
    """One AuthorizationPolicy as far as a proxy holds it."""

    namespace: str
    name: str
    action: str  # ALLOW | DENY | AUDIT | CUSTOM
    dry_run: bool
    provider: str  # of CUSTOM
    rules: int
    ports: tuple[int, ...]  # sorted; 0: all that no other chain is for


@dataclass(frozen=True, slots=True, order=True)
class HeldIssuer:
    """One issuer of tokens that a proxy checks. "" takes tokens of any issuer."""

    issuer: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Guarded:
    """One port of the workload and what it asks of connections."""

    port: int  # 0: all that no other chain is for
    http: bool
    tcp: bool
    mtls: str  # STRICT | PERMISSIVE | DISABLE


@dataclass(frozen=True, slots=True)
class _Chain:
    port: int
    message: Message


def held_guards(
    listeners: Iterable[Message], *, gateway: bool, extensions: Mapping[str, Message] = EMPTY
) -> tuple[tuple[Guarded, ...], tuple[HeldPolicy, ...], tuple[HeldIssuer, ...]]:
    """Return the ports, the policies and the issuers of what lets clients in, each sorted; what is for all other
    ports comes last.

    Of a sidecar these are the inbound listeners; of a gateway, where nothing arrives from its own application, all.
    `extensions` is the configuration of filters that come apart from their listener, by name.
    """
    chains = [
        chain
        for listener in listeners
        if gateway or listener.get("traffic_direction") == "INBOUND"
        for chain in _chains(listener)
    ]
    policies: dict[tuple[str, str, str, bool, str], tuple[set[str], set[int]]] = {}
    issuers: dict[str, set[int]] = {}
    for chain in chains:
        for kind, config in _filters(chain.message, extensions):
            if kind == "RBAC":
                for key, rule in _rules(config):
                    names, ports = policies.setdefault(key, (set(), set()))
                    names.add(rule)
                    ports.add(chain.port)
            elif kind == "JwtAuthentication":
                for provider in config.get("providers", {}).values():
                    issuers.setdefault(provider.get("issuer", ""), set()).add(chain.port)
    return (
        tuple(sorted(_guarded(chains), key=lambda one: (one.port == ANY_PORT, one.port))),
        tuple(
            sorted(
                HeldPolicy(ns, name, action, dry_run, provider, len(rules), tuple(sorted(ports)))
                for (ns, name, action, dry_run, provider), (rules, ports) in policies.items()
            )
        ),
        tuple(sorted(HeldIssuer(issuer, tuple(sorted(ports))) for issuer, ports in issuers.items())),
    )


def _chains(listener: Message) -> Iterator[_Chain]:
    own: int = listener.get("address", {}).get("socket_address", {}).get("port_value", 0)
    chains = [
        *listener.get("filter_chains", ()),
        *([listener["default_filter_chain"]] if "default_filter_chain" in listener else ()),
    ]
    for chain in chains:
        named = chain.get("filter_chain_match", {}).get("destination_port")
        if named == CAPTURE_PORT:
            continue  # a connection to the capture itself: it leads nowhere
        if named is None:
            named = ANY_PORT if own == CAPTURE_PORT else own
        yield _Chain(named, chain)


def _filters(chain: Message, extensions: Mapping[str, Message]) -> Iterator[tuple[str, Message]]:
    for entry in chain.get("filters", ()):
        config = entry.get("typed_config", {})
        kind = _kind(config)
        if kind == "HttpConnectionManager":
            for inner in config.get("http_filters", ()):
                found = extensions.get(inner.get("name", ""), {}) if "config_discovery" in inner else None
                part = inner.get("typed_config", {}) if found is None else found
                yield _kind(part), part
        else:
            yield kind, config


def _kind(config: Message) -> str:
    return str(config.get("@type", "")).rpartition(".")[2]


def _rules(config: Message) -> Iterator[tuple[tuple[str, str, str, bool, str], str]]:
    for field, shadow in (("rules", False), ("shadow_rules", True)):
        part = config.get(field, {})
        action = part.get("action", "ALLOW")  # Envoy leaves out what is its default
        for rule in part.get("policies", {}):
            found = _RULE.fullmatch(rule)
            if found is None:
                continue  # not of an AuthorizationPolicy: an EnvoyFilter's own
            provider = found["provider"] or ""
            prefix = config.get("shadow_rules_stat_prefix", "")
            dry_run = shadow and not provider and prefix.startswith(_DRY_RUN)
            word = "CUSTOM" if provider else _ACTIONS.get(action, action)
            yield (found["ns"], found["name"], word, dry_run, provider), rule


def _guarded(chains: Iterable[_Chain]) -> Iterator[Guarded]:
    ports: dict[int, list[Message]] = {}
    for chain in chains:
        ports.setdefault(chain.port, []).append(chain.message)
    for port, found in ports.items():
        mutual = any(_is_mutual(chain) for chain in found)
        # TLS that is passed through unopened counts as plain: nobody was asked for a certificate.
        plain = any(not _is_mutual(chain) for chain in found)
        kinds = {kind for chain in found for kind in _handlers(chain)}
        yield Guarded(
            port=port,
            http="HttpConnectionManager" in kinds,
            tcp="TcpProxy" in kinds,
            mtls="PERMISSIVE" if mutual and plain else "STRICT" if mutual else "DISABLE",
        )


def _handlers(chain: Message) -> Iterator[str]:
    for entry in chain.get("filters", ()):
        yield _kind(entry.get("typed_config", {}))


def _is_mutual(chain: Message) -> bool:
    return bool(chain.get("transport_socket", {}).get("typed_config", {}).get("require_client_certificate"))
