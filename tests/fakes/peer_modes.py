"""PeerAuthentications as plain values, and a second opinion on which mode they give a port.

The opinion is written from the specification (docs/api/PeerAuthentication.md) and shares nothing with the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MODES = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")


@dataclass(frozen=True)
class PeerPolicy:
    """One PeerAuthentication; `mode` None writes no `mtls` at all."""

    name: str
    namespace: str
    mode: str | None = None
    selector: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, str] = field(default_factory=dict)
    age: int = 0  # seconds; the greater, the older

    @property
    def created(self) -> str:
        return f"2026-01-01T00:00:{59 - self.age:02}Z"

    def yaml(self) -> str:
        labels = ", ".join(f'{key}: "{value}"' for key, value in self.selector.items())
        parts = [
            *([f"selector: {{matchLabels: {{{labels}}}}}"] if self.selector else []),
            *([f"mtls: {{mode: {self.mode}}}"] if self.mode is not None else []),
            *(
                [f"portLevelMtls: {{{', '.join(f'{port}: {{mode: {mode}}}' for port, mode in self.ports.items())}}}"]
                if self.ports
                else []
            ),
        ]
        return (
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
            f'metadata: {{name: {self.name}, namespace: {self.namespace}, creationTimestamp: "{self.created}"}}\n'
            f"spec: {{{', '.join(parts)}}}\n"
        )


def all_yaml(policies: Iterable[PeerPolicy]) -> str:
    return "---\n".join(policy.yaml() for policy in policies)


def mode_of(
    policies: Iterable[PeerPolicy],
    namespace: str,
    labels: Mapping[str, str],
    port: int,
    *,
    root: str = "istio-system",
) -> str:
    """Return what a port of the application takes: DISABLE, PERMISSIVE or STRICT."""
    of_workload: list[PeerPolicy] = []
    of_namespace: list[PeerPolicy] = []
    of_mesh: list[PeerPolicy] = []
    for policy in sorted(policies, key=lambda one: (-one.age, one.name)):
        if policy.selector:
            if policy.namespace == namespace and set(policy.selector.items()) <= set(labels.items()):
                of_workload.append(policy)
            continue
        if policy.namespace == namespace:
            of_namespace.append(policy)
        if policy.namespace == root:
            of_mesh.append(policy)
    words: list[str | None] = []
    if of_workload:
        words.append(of_workload[0].ports.get(port))
    words.extend(scope[0].mode for scope in (of_workload, of_namespace, of_mesh) if scope)
    return next((word for word in words if word not in (None, "UNSET")), None) or "PERMISSIVE"
