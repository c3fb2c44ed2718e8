"""What is held because a resource of the same scope names it, whether or not a proxy has asked for it yet.

A listener's route configurations, the extensions that patches bring and, where changes are judged, a cluster's
endpoints are made with what names them.
"""

from __future__ import annotations

from lateen.pilot.serving.slices import NamedSlice
from lateen.pilot.translate.matches import JWT_FILTER
from lateen.pilot.xds.source import Resource

__all__ = ["Held", "discovered"]

_MARKS = {JWT_FILTER: b"envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"}  # name -> its type


def discovered(listener: Resource | None) -> tuple[str, ...]:
    """Return the names of the extensions of our own that a listener asks for; those of EnvoyFilters are held apart."""
    if listener is None:
        return ()
    # Not parsed: a listener may be large. One that only happens to hold these bytes costs an extension nobody asks for.
    return tuple(name for name, mark in _MARKS.items() if mark in listener.body)


class Held:
    """The children that one scope holds."""

    def __init__(self) -> None:
        # (type of the children, name of what names them) -> the children, which are held
        self._children: dict[tuple[str, str], tuple[str, ...]] = {}
        self._left: list[tuple[NamedSlice, str]] = []  # held no more once what is staged is served

    def hold(self, children: NamedSlice, parent: str, names: tuple[str, ...]) -> None:
        """Hold what a staged resource names, and what it named before until that is served no more."""
        key = (children.type_url, parent)
        before = self._children.pop(key, ())
        if names:
            self._children[key] = names
        for name in names:
            if name not in before:
                children.get(name)
        self._left += [(children, name) for name in before if name not in names]

    def let_go(self) -> None:
        """Let go of what only the state before the last one needed."""
        left, self._left = self._left, []
        for children, name in left:
            children.release(name)
