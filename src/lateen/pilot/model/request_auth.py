"""RequestAuthentications: the tokens that one proxy believes, and where their keys are to be had.

Rules: docs/api/RequestAuthentication.md. All rules of all policies for a proxy count together, sorted by issuer. Keys
that are fetched are an input of their own (`keys`): nothing here waits for them, and without them tokens are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from lateen.api.base import Object, Problem, ResourceKey
from lateen.errors import BadInput
from lateen.flow import Read
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.jwks import PRIVATE_KEY, JwksSource, parse_key_set, source_of
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.values_jwt import NO_REQUEST_AUTH, RequestAuth, TokenFilterInput, TokenIssuer
from lateen.pilot.registry.values import Workload

__all__ = ["JwksWant", "JwksWants", "RequestAuths", "inline_key_problems"]

KIND: Final = "RequestAuthentication"
DEFAULT_TIMEOUT: Final = timedelta(seconds=5)
Labels = tuple[tuple[str, str], ...]


class RequestAuths:
    """The derived collections of what proxies are told about tokens."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.attachment = Attachment(mesh, KIND)
        # JwksSource -> the set's usable keys as JSON; nothing while there are none
        self.keys = mesh.graph.input("keys of issuers")
        # (kind of the proxy, namespace, labels) -> RequestAuth
        self.auth = mesh.graph.derive("request authentication", self._auth)
        # (kind of the proxy, namespace, labels) -> TokenFilterInput
        self.tokens = mesh.graph.derive("tokens", self._tokens)

    def of_workload(self, read: Read, workload: Workload) -> RequestAuth:
        """Return what the listeners of a sidecar do about tokens."""
        found: RequestAuth = read.get(self.auth, _key(workload.kind, workload.namespace, workload.labels.items()))
        return found

    def of_gateway(self, read: Read, view: View) -> RequestAuth:
        """Return what the listeners of a gateway do about tokens."""
        found: RequestAuth = read.get(self.auth, _key(view.kind, view.namespace, view.labels))
        return found

    def tokens_of_workload(self, read: Read, workload: Workload) -> TokenFilterInput:
        """Return the tokens that a sidecar believes."""
        found: TokenFilterInput = read.get(
            self.tokens, _key(workload.kind, workload.namespace, workload.labels.items())
        )
        return found

    def tokens_of_gateway(self, read: Read, view: View) -> TokenFilterInput:
        """Return the tokens that a gateway believes."""
        found: TokenFilterInput = read.get(self.tokens, _key(view.kind, view.namespace, view.labels))
        return found

    def _rules(self, read: Read, key: tuple[str, str, Labels]) -> list[Any]:
        kind, namespace, labels = key
        policies = self.attachment.policies(read, kind=kind, namespace=namespace, labels=labels)
        rules = [rule for policy in policies for rule in policy.spec.jwt_rules]
        return sorted(rules, key=lambda rule: rule.issuer or "")

    def _auth(self, read: Read, key: tuple[str, str, Labels]) -> RequestAuth:
        rules = self._rules(read, key)
        if not rules:
            return NO_REQUEST_AUTH
        return RequestAuth(enabled=True, outputs=tuple(sorted({name for rule in rules for name in _outputs(rule)})))

    def _tokens(self, read: Read, key: tuple[str, str, Labels]) -> TokenFilterInput:
        return TokenFilterInput(
            issuers=tuple(self._issuer(read, rule) for rule in self._rules(read, key)), gateway=key[0] == "gateway"
        )

    def _issuer(self, read: Read, rule: Any) -> TokenIssuer:
        return TokenIssuer(
            issuer=rule.issuer or "",
            audiences=rule.audiences,
            keys=self._keys_of(read, rule),
            from_headers=tuple((header.name, header.prefix) for header in rule.from_headers),
            from_params=rule.from_params,
            from_cookies=rule.from_cookies,
            forward=rule.forward_original_token,
            payload_header=rule.output_payload_to_header,
            claim_headers=tuple((output.header, output.claim) for output in rule.output_claim_to_headers),
            space_delimited_claims=rule.space_delimited_claims,
        )

    def _keys_of(self, read: Read, rule: Any) -> str:
        source = source_of(rule)
        if source is not None:
            return read.get(self.keys, source) or ""
        try:
            return parse_key_set((rule.jwks or "").encode()).text
        except BadInput:
            return ""


def _key(kind: str, namespace: str, labels: Iterable[tuple[str, str]]) -> tuple[str, str, Labels]:
    return kind, namespace, tuple(sorted(labels))


def _outputs(rule: Any) -> Iterable[str]:
    if rule.output_payload_to_header:
        yield rule.output_payload_to_header.lower()
    for output in rule.output_claim_to_headers:
        yield output.header.lower()


def inline_key_problems(obj: Object) -> Iterator[Problem]:
    """Yield what is wrong with keys that stand in a RequestAuthentication, but for what the checks tell of them."""
    if obj.key.kind != KIND:
        return
    for i, rule in enumerate(obj.spec.jwt_rules):
        if not rule.jwks:
            continue
        path = f"spec.jwtRules[{i}].jwks"
        try:
            found = parse_key_set(rule.jwks.encode())
        except BadInput as error:
            yield obj.problem(path, f"{error}; so every token is refused")
            continue
        if not found.text:
            yield obj.problem(path, "holds no usable key, so every token is refused")
        for fault in found.faults:
            if PRIVATE_KEY not in fault:  # told by the checks
                yield obj.problem(path, fault, "warning")


# ---------------------------------------------------------------- what is to be fetched


@dataclass(frozen=True, slots=True)
class JwksWant:
    """What rules ask of one source: the longest time that one of them gives, and where they stand."""

    timeout: timedelta
    places: tuple[tuple[ResourceKey, str], ...]  # (RequestAuthentication, path of the field), sorted


class JwksWants:
    """Where the keys of all rules come from. `replace` what a resource says; cost follows the change."""

    def __init__(self) -> None:
        self._places: dict[JwksSource, dict[tuple[ResourceKey, str], timedelta]] = {}
        self._held: dict[ResourceKey, tuple[tuple[JwksSource, str], ...]] = {}

    def replace(self, key: ResourceKey, obj: Object | None) -> bool:
        """Take what a resource is now; None: it is gone. Returns whether that may change what is to be fetched."""
        if key.kind != KIND:
            return False
        before = self._held.pop(key, ())
        for source, path in before:
            places = self._places[source]
            del places[key, path]
            if not places:
                del self._places[source]
        held = []
        for i, rule in enumerate(obj.spec.jwt_rules if obj is not None else ()):
            source_or_none = source_of(rule)
            if source_or_none is not None:
                path = f"spec.jwtRules[{i}].{'jwksUri' if source_or_none.kind == 'uri' else 'issuer'}"
                held.append((source_or_none, path))
                self._places.setdefault(source_or_none, {})[key, path] = rule.timeout or DEFAULT_TIMEOUT
        if held:
            self._held[key] = tuple(held)
        return bool(before or held)

    def all(self) -> Mapping[JwksSource, JwksWant]:
        """Return what is wanted of each source."""
        return {
            source: JwksWant(max(places.values()), tuple(sorted(places))) for source, places in self._places.items()
        }
