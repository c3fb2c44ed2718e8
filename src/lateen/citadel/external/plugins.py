"""The authorities that configuration can choose: built in, or a class that an installed package offers.

A package offers one in its metadata:

    [project.entry-points."lateen.authorities"]
    acme = "acme_lateen:AcmeAuthority"

Only the class that is chosen is imported. It runs inside of the control plane, so it is trusted with everything but one
thing: what it says was signed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from lateen.api.base import Spec
from lateen.citadel.external.interface import ExternalAuthority
from lateen.errors import BadInput

__all__ = ["GROUP", "Known", "known_authorities"]

GROUP: Final = "lateen.authorities"
_PROFILES: Final = frozenset({"leaf", "intermediate"})


@dataclass(frozen=True, slots=True)
class Known:
    """One name that may stand as `kind`."""

    name: str
    load: Callable[[], type[ExternalAuthority]]  # raises `BadInput`


def known_authorities() -> dict[str, Known]:
    """Return what can be chosen, by name. A built-in name is never given to a package."""
    known = {name: Known(name, load) for name, load in (("vault", _vault), ("kubernetes", _kubernetes))}
    for entry in entry_points(group=GROUP):
        known.setdefault(entry.name, Known(entry.name, lambda entry=entry: _load(entry)))  # type: ignore[misc]  # its type is inferred without the default
    return known


def _vault() -> type[ExternalAuthority]:
    from lateen.citadel.external.vault import Vault

    return Vault


def _kubernetes() -> type[ExternalAuthority]:
    from lateen.citadel.external.kubernetes import KubernetesAuthority

    return KubernetesAuthority


def _load(entry: EntryPoint) -> type[ExternalAuthority]:
    where = f"{entry.value} of package {entry.dist.name if entry.dist is not None else 'unknown'}"
    try:
        loaded: Any = entry.load()
    except Exception as error:  # importing somebody else's package
        raise BadInput(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    problem = _problem(loaded)
    if problem:
        raise BadInput(f"{where} is no authority: {problem}")
    return loaded  # type: ignore[no-any-return]


def _problem(loaded: Any) -> str:
    if not isinstance(loaded, type) or not issubclass(loaded, ExternalAuthority):
        return "a subclass of lateen.citadel.external.ExternalAuthority wanted"
    if loaded.sign is ExternalAuthority.sign:
        return "it has no method sign"
    if not (isinstance(loaded.Parameters, type) and issubclass(loaded.Parameters, Spec)):
        return "its Parameters are no subclass of lateen.api.base.Spec"
    if not loaded.profiles or not loaded.profiles <= _PROFILES:
        return f"its profiles are {', '.join(sorted(loaded.profiles)) or 'none'}, wanted leaf, intermediate or both"
    return ""
