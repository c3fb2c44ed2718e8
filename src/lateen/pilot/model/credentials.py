"""Credentials: which secrets a proxy may fetch, and what is in them.

A secret is served under `kubernetes://[<namespace>/]<name>`, its roots alone under the same with `-cacert` behind. A
proxy gets one when all of this holds, whatever it asks for and whoever asked before:

- the secret is of the namespace that the proxy's certificate proves (`lateen.pilot.serving.source` gives the others no
  secrets at all), or its owner has granted it to that namespace, by an annotation on the Secret itself;
- a resource that acts on this proxy names it: a server of a Gateway that the proxy runs, or a DestinationRule, which
  for a sidecar must pick it by workloadSelector (Istio's rule);
- that resource is of the proxy's namespace, the secret's, or the root namespace: nobody serves with another team's
  certificate. With `hostOwnership: istio` in MeshConfig, Istio's rule holds, and it may be of any.

Reasons: docs/design/0006-gateways.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lateen.api.base import Object, ResourceKey
from lateen.api.secret import CA_SUFFIX, GRANT, Credential, credential_of, granted_to
from lateen.flow import Read
from lateen.pilot.model.gateway_servers import Note, PortServers
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.ownership import ISTIO
from lateen.pilot.model.secret_names import (
    OWN_CERTIFICATE,
    SecretName,
    parse_secret_name,
    roots_name,
    secret_resource_name,
)
from lateen.pilot.model.values import SecretInput

__all__ = ["Credentials", "server_credentials"]


class Credentials:
    """The derived collections of secrets."""

    def __init__(self, mesh: Mesh, servers: Any) -> None:
        self.mesh = mesh
        self._servers = servers  # view -> tuple[PortServers, ...]
        graph = mesh.graph
        self.rules = graph.index("rules by credential", mesh.objects, _rule_credentials)
        self.rules_of = graph.index(
            "rules with credentials",
            mesh.objects,
            lambda key, obj: [key.namespace] if _rule_credentials(key, obj) else [],
        )
        # (namespace, name of the Secret) -> Credential | None
        self.credential = graph.derive("credential", self._credential)
        # (view, name) -> SecretInput | None
        self.secret = graph.derive("secret", self._secret)
        # view -> tuple[Note, ...]: credentials that are named and not there
        self.notes = graph.derive("credential notes", self._notes)
        self._named = graph.derive("credentials of gateway", self._named_by_servers)

    def _credential(self, read: Read, key: tuple[str, str]) -> Credential | None:
        obj = read.get(self.mesh.objects, ResourceKey("Secret", *key))
        return None if obj is None else credential_of(obj.spec)

    def _secret(self, read: Read, key: tuple[View, str]) -> SecretInput | None:
        view, name = key
        parsed = parse_secret_name(name)
        if parsed is None or not self._may_have(read, view, parsed):
            return None
        owner = parsed.namespace or view.namespace
        if not parsed.roots_only:
            if not self._open_to(read, (owner, parsed.name), view.namespace):
                return None
            return _certificate(name, read.get(self.credential, (owner, parsed.name)))
        for candidate in (parsed.name + CA_SUFFIX, parsed.name):
            found = _roots(name, read.get(self.credential, (owner, candidate)))
            if found is not None and self._open_to(read, (owner, candidate), view.namespace):
                return found
        return None

    def _open_to(self, read: Read, key: tuple[str, str], namespace: str) -> bool:
        """Tell whether proxies of a namespace may have a Secret: their own, or one that is granted to them."""
        if key[0] == namespace:
            return True
        obj = read.get(self.mesh.objects, ResourceKey("Secret", *key))
        return obj is not None and namespace in granted_to(obj)

    def _may_have(self, read: Read, view: View, wanted: SecretName) -> bool:
        """Tell whether something that acts on the proxy names just this: who needs roots is not given a key."""
        own = _seen_from(view.namespace, wanted)
        if own in read.get(self._named, view):
            return True
        for key in read.lookup(self.rules, wanted.name):
            rule = read.get(self.mesh.objects, key)
            if (
                rule is not None
                and self._may_name(read, key.namespace, view, own)
                and self._acts(read, rule, view)
                and own in _wanted(rule, view.namespace)
            ):
                return True
        return False

    def _may_name(self, read: Read, owner: str, view: View, secret: SecretName) -> bool:
        """Tell whether a resource of namespace `owner` may name a secret to a proxy."""
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        allowed = (view.namespace, secret.namespace or view.namespace, settings.root_namespace)
        return owner in allowed or settings.host_ownership == ISTIO

    def _acts(self, read: Read, rule: Object, view: View) -> bool:
        """Tell whether a DestinationRule may bring `view` a credential."""
        if not self.mesh.exported(read, rule, view.namespace):
            return False
        selector = rule.spec.workload_selector
        if selector is None:
            return view.kind == "gateway"
        labels = view.labels
        return rule.key.namespace == view.namespace and all(
            pair in labels for pair in (selector.match_labels or {}).items()
        )

    def _named_by_servers(self, read: Read, view: View) -> frozenset[SecretName]:
        if view.kind != "gateway":
            return frozenset()
        ports: tuple[PortServers, ...] = read.get(self._servers, view)[0]
        return frozenset(
            own
            for port in ports
            for server in port.servers
            if server.terminates
            for _, name in server_credentials(server.tls)
            if (parsed := parse_secret_name(name)) is not None
            and self._may_name(read, server.namespace, view, own := _seen_from(view.namespace, parsed))
        )

    # ---- what is missing

    def _notes(self, read: Read, view: View) -> tuple[Note, ...]:
        notes: list[Note] = []
        if view.kind == "gateway":
            for port in read.get(self._servers, view)[0]:
                for server in port.servers:
                    if server.terminates:
                        for field, name in server_credentials(server.tls):
                            reason = self._missing(read, view, name, server.namespace)
                            if reason:
                                notes.append(Note(server.key, f"{server.path}.tls.{field}", reason))
        for key in sorted(read.lookup(self.rules_of, view.namespace)):
            rule = read.get(self.mesh.objects, key)
            if rule is not None and self._acts(read, rule, view):
                for path, tls in _client_tls(rule):
                    for name in _client_names(tls):
                        reason = self._missing(read, view, name, key.namespace)
                        if reason:
                            notes.append(Note(key, f"{path}.credentialName", reason))
        return tuple(dict.fromkeys(notes))

    def _missing(self, read: Read, view: View, name: str, owner: str) -> str:
        """Return why a proxy of `view` cannot have what a resource of namespace `owner` names; "" where it can."""
        if name == OWN_CERTIFICATE:
            return ""
        parsed = parse_secret_name(name)
        if parsed is None:
            return f"{name} cannot be fetched here: the name of a Secret wanted; connections that need it fail"
        secret = _seen_from(view.namespace, parsed)
        home = secret.namespace or view.namespace
        if not self._may_name(read, owner, view, secret):
            return (
                f"the proxy is of namespace {view.namespace}: only a resource of that namespace, or of the root "
                "namespace, may name its secrets (hostOwnership: istio in MeshConfig lets others); connections that "
                "need it fail"
            )
        place = f"{home}/{parsed.name}"
        names = (parsed.name + CA_SUFFIX, parsed.name) if parsed.roots_only else (parsed.name,)
        # Not told whether it is there: who may not have it need not know.
        if not any(self._open_to(read, (home, one), view.namespace) for one in names):
            return (
                f"{name} is of namespace {home}, and the proxy of {view.namespace}: a secret leaves its namespace only "
                f"where its owner says so ({GRANT}: {view.namespace}, an annotation on it); connections that need it "
                "fail"
            )
        if parsed.roots_only:
            mine = [one for one in names if self._open_to(read, (home, one), view.namespace)]
            if any((got := read.get(self.credential, (home, one))) is not None and got.roots for one in mine):
                return ""
            return (
                f"no roots in Secret {place}{CA_SUFFIX} (ca.crt, cacert), nor in {place}; connections that need it fail"
            )
        found = read.get(self.credential, (home, parsed.name))
        if found is None:
            return f"no Secret {place}; connections that need it fail"
        return (
            "" if found.chain else f"Secret {place} has no certificate (tls.crt, cert); connections that need it fail"
        )


def server_credentials(tls: Any) -> Iterator[tuple[str, str]]:
    """Yield (field, name of the secret) for all that a server fetches over ADS; its own certificate is not among it."""
    written = [("credentialName", tls.credential_name)] if tls.credential_name else []
    written += [(f"credentialNames[{i}]", name) for i, name in enumerate(tls.credential_names)]
    named = [(field, secret_resource_name(name)) for field, name in written]
    yield from ((field, name) for field, name in named if name != OWN_CERTIFICATE)
    if tls.mode in ("MUTUAL", "OPTIONAL_MUTUAL"):
        if tls.ca_cert_credential_name:
            yield "caCertCredentialName", roots_name(tls.ca_cert_credential_name)
        elif named and named[0][1] != OWN_CERTIFICATE:
            yield named[0][0], roots_name(written[0][1])


def _seen_from(namespace: str, secret: SecretName) -> SecretName:
    """Return one spelling of a name for all that a proxy of a namespace has: its own without namespace."""
    return SecretName("" if secret.namespace == namespace else secret.namespace, secret.name, secret.roots_only)


def _certificate(name: str, found: Credential | None) -> SecretInput | None:
    if found is None or not found.chain:
        return None
    return SecretInput(name=name, chain=found.chain, private_key=found.private_key, staple=found.staple)


def _roots(name: str, found: Credential | None) -> SecretInput | None:
    return None if found is None or not found.roots else SecretInput(name=name, roots=found.roots, crl=found.crl)


# ---------------------------------------------------------------- DestinationRules


def _client_tls(rule: Object) -> Iterator[tuple[str, Any]]:
    """Yield each `tls` block of a DestinationRule that names a credential, and its path."""
    policies = [("spec.trafficPolicy", rule.spec.traffic_policy)]
    policies += [
        (f"spec.subsets[{i}].trafficPolicy", subset.traffic_policy) for i, subset in enumerate(rule.spec.subsets)
    ]
    for path, policy in policies:
        if policy is None:
            continue
        blocks = [(f"{path}.tls", policy.tls)]
        blocks += [
            (f"{path}.portLevelSettings[{i}].tls", entry.tls) for i, entry in enumerate(policy.port_level_settings)
        ]
        yield from ((at, tls) for at, tls in blocks if tls is not None and tls.credential_name)


def _client_names(tls: Any) -> Iterable[str]:
    """Return the names that a client fetches for one `tls` block: roots, and its own certificate where it shows one."""
    if tls.mode not in ("SIMPLE", "MUTUAL"):
        return ()
    roots = () if tls.insecure_skip_verify else (roots_name(tls.credential_name),)
    return (secret_resource_name(tls.credential_name), *roots) if tls.mode == "MUTUAL" else roots


def _wanted(rule: Object, namespace: str) -> set[SecretName]:
    """Return the secrets that a rule names, as a proxy of `namespace` sees them."""
    return {
        _seen_from(namespace, parsed)
        for _, tls in _client_tls(rule)
        for name in _client_names(tls)
        if (parsed := parse_secret_name(name)) is not None
    }


def _rule_credentials(key: ResourceKey, obj: Object) -> list[str]:
    if key.kind != "DestinationRule":
        return []
    names = {
        parsed.name
        for _, tls in _client_tls(obj)
        for name in _client_names(tls)
        if (parsed := parse_secret_name(name)) is not None
    }
    return sorted(names)


def _credential_namespaces(key: ResourceKey, obj: Object) -> list[str]:
    return [key.namespace] if _rule_credentials(key, obj) else []
