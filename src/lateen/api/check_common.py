"""Checks that several kinds share: labels, selectors, targets, exportTo, durations, ports, regular expressions.

Each yields the faults at `path`. Rule ids are those of docs/api/README.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from lateen.api.base import Object, Problem
from lateen.api.names import is_dns_label, is_label_key, is_label_value, is_port, is_subnet
from lateen.api.places import join_path
from lateen.api.regex_syntax import regex_fault
from lateen.api.scalars import duration_fault, format_duration
from lateen.api.suggest import listed

__all__ = [
    "check_duration",
    "check_export_to",
    "check_label_map",
    "check_metadata",
    "check_port",
    "check_regex",
    "check_selector",
    "check_subnet",
    "check_targets",
]

TARGETS_LIMIT: Final = 16  # TR-2
LABELS_LIMIT: Final = 256  # SEL-3, `labels`
MATCH_LABELS_LIMIT: Final = 4096  # SEL-3, `matchLabels`

DRY_RUN: Final = "istio.io/dry-run"
ALWAYS_REJECT: Final = "internal.istio.io/webhook-always-reject"
_INTERNAL: Final = ("internal.istio.io/parents", "internal.istio.io/parent-namespace")


def check_label_map(obj: Object, labels: Mapping[str, str] | None, path: str) -> Iterator[Problem]:
    """Keys and values must be what labels of a workload can be."""
    for key, value in (labels or {}).items():
        place = join_path(path, key)
        if not is_label_key(key):
            yield obj.problem(place, f'must be a label, as in app or team.test/app, got "{key}"')
        if not is_label_value(value):
            yield obj.problem(
                place, f'must be at most 63 letters, digits, "-", "_" and ".", alphanumeric at both ends, got "{value}"'
            )


def check_selector(obj: Object, selector: Any, path: str) -> Iterator[Problem]:
    """SEL-1..4, of `labels` and `matchLabels` alike; `selector` is None where there is none."""
    if selector is None:
        return
    name, attribute, limit = (
        ("labels", "labels", LABELS_LIMIT)
        if hasattr(selector, "labels")
        else ("matchLabels", "match_labels", MATCH_LABELS_LIMIT)
    )
    labels: Mapping[str, str] = getattr(selector, attribute) or {}
    below = f"{path}.{name}"
    if len(labels) > limit:  # SEL-3
        yield obj.problem(below, f"must have at most {limit} labels, got {len(labels)}")
    for key, value in labels.items():
        place = join_path(below, key)
        if not key:  # SEL-1
            yield obj.problem(place, "a label's key must not be empty")
        elif "*" in key or "*" in value:  # SEL-2
            yield obj.problem(place, f'must not hold a wildcard, got "{key}: {value}"')
        elif len(value) > 63:  # SEL-3
            yield obj.problem(place, f"must be at most 63 characters, got {len(value)}")
    if not labels and not getattr(selector, "match_expressions", ()):  # SEL-4
        yield obj.problem(path, "names no labels, so it applies to the whole namespace", "warning")


_TARGETS: Final = frozenset(
    {
        ("", "Service"),
        ("core", "Service"),
        ("networking.istio.io", "ServiceEntry"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
    }
)


def check_targets(obj: Object) -> Iterator[Problem]:
    """TR-1..5 and the selector's rules, of a policy that has `selector`, `targetRef`, `targetRefs`, or some of them."""
    spec = obj.spec
    selector = getattr(spec, "selector", None)
    one = getattr(spec, "target_ref", None)
    several = getattr(spec, "target_refs", None) or ()
    yield from check_selector(obj, selector, "spec.selector")
    given = [
        name
        for name, value in (("selector", selector), ("targetRef", one), ("targetRefs", several or None))
        if value is not None
    ]
    if len(given) > 1:  # TR-1
        yield obj.problem(
            f"spec.{given[1]}", f"only one of selector, targetRef, targetRefs may be set, got {listed(given)}"
        )
    if len(several) > TARGETS_LIMIT:  # TR-2
        yield obj.problem("spec.targetRefs", f"must have at most {TARGETS_LIMIT} entries, got {len(several)}")
    if one is not None:
        yield from _check_target(obj, one, "spec.targetRef")
    for position, target in enumerate(several):
        yield from _check_target(obj, target, f"spec.targetRefs[{position}]")


def _check_target(obj: Object, target: Any, path: str) -> Iterator[Problem]:
    if not target.name:  # TR-3
        yield obj.problem(f"{path}.name", "must not be empty")
    if target.namespace:  # TR-4
        yield obj.problem(f"{path}.namespace", f'must be empty: only the own namespace, got "{target.namespace}"')
    if (target.group, target.kind) not in _TARGETS:  # TR-5
        yield obj.problem(
            f"{path}.kind",
            "must be Service (core), ServiceEntry (networking.istio.io), Gateway or GatewayClass "
            f'(gateway.networking.k8s.io), got "{target.kind}" of "{target.group}"',
        )


def check_export_to(
    obj: Object, entries: Iterable[str], *, nobody: bool = False, own_only: bool = False
) -> Iterator[Problem]:
    """EX-1..7. `nobody`: `~` is allowed (ServiceEntry); `own_only`: nothing but the own namespace is (EX-7)."""
    given = tuple(entries)
    known = set(given)
    before: set[str] = set()
    own = obj.key.namespace
    for position, entry in enumerate(given):
        path = f"spec.exportTo[{position}]"
        if entry in before:  # EX-1
            yield obj.problem(path, f'is given twice, got "{entry}"')
        elif entry == own and "." in known:  # EX-2
            yield obj.problem(path, f'is the same namespace as ".", got "{entry}"')
        elif entry == "~" and not nobody:  # EX-4
            yield obj.problem(path, f'"~" (nobody) is for ServiceEntries only, not for {obj.key.kind}')
        elif entry not in ("*", ".", "~") and not is_dns_label(entry):  # EX-3
            yield obj.problem(path, f'must be "*", "." or a namespace, got "{entry}"')
        elif entry in ("*", "~") and len(given) > 1:  # EX-5, EX-6
            yield obj.problem(path, f'"{entry}" must stand alone, got {len(given)} entries')
        elif own_only and entry not in (".", own):  # EX-7
            yield obj.problem(path, f'must be "." where there is a workloadSelector, got "{entry}"')
        before.add(entry)


def check_duration(obj: Object, value: timedelta, path: str) -> Iterator[Problem]:
    """The rule of `Duration`, where a `FreeDuration` must hold it too."""
    fault = duration_fault(value)
    if fault is not None:
        yield obj.problem(path, f"{fault}, got {format_duration(value)}")


def check_port(obj: Object, number: int, path: str) -> Iterator[Problem]:
    if not is_port(number):
        yield obj.problem(path, f"must be a port from 1 to 65535, got {number}")


def check_subnet(obj: Object, text: str, path: str) -> Iterator[Problem]:
    if not is_subnet(text):
        yield obj.problem(path, f'must be an IP address or a subnet as in 10.0.0.0/8, got "{text}"')


def check_regex(obj: Object, text: str, path: str) -> Iterator[Problem]:
    fault = regex_fault(text)
    if fault is not None:
        yield obj.problem(path, fault)


def check_metadata(obj: Object) -> Iterator[Problem]:
    """META-1, 4 and 5; the dry run of AuthorizationPolicies is checked with them (META-2, 3)."""
    for key in obj.annotations:
        path = join_path("metadata.annotations", key)
        if key == DRY_RUN and obj.key.kind != "AuthorizationPolicy":
            yield obj.problem(path, f"is for AuthorizationPolicies only, not for {obj.key.kind}")
        elif key == ALWAYS_REJECT:
            yield obj.problem(path, "asks for a refusal, and gets it")
        elif key in _INTERNAL:
            yield obj.problem(path, "is internal and must not be set")
