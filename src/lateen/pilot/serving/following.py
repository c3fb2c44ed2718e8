"""Who is told what comes into sight: live index lookups and where VirtualServices send to, for all that follow them.

In:  changes of indexes and of destinations. Out: calls of the followers they concern, and of nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from lateen.flow import Index
from lateen.pilot.model.mesh import View
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.visibility import Membership

__all__ = ["Follower", "Following"]


class Follower(Hashable, Protocol):
    """One that is told."""

    @property
    def view(self) -> View: ...

    def member_changes(self, member: Membership, added: Iterable[Any], removed: Iterable[Any]) -> None:
        """Take what came to and went from one of the memberships."""

    def destinations_changed(self, virtual: Any, hosts: tuple[Any, ...]) -> None:
        """Take the hosts that a followed VirtualService sends to now."""


F = TypeVar("F", bound=Follower)


class Following(Generic[F]):
    """All that is followed, and by whom."""

    def __init__(self, outbound: Outbound, touch: Callable[[F], None]) -> None:
        """`touch` is called with each follower that was told of a change."""
        mesh = outbound.mesh
        self._sight = mesh.sight
        self._touch = touch
        self._members: dict[tuple[Index[Any, Any], Any], dict[F, Membership]] = {}
        self._senders: dict[Any, set[F]] = {}  # key of destinations -> those that follow them
        for index in (
            mesh.rows_by_scope,
            mesh.implied_by_scope,
            mesh.ports_by_scope,
            mesh.implied_ports_by_scope,
            mesh.ports_by_host,
            mesh.implied_ports_by_host,
            self._sight.virtual_by_owner,
            outbound.virtual_services.names_by_scope,
        ):
            mesh.graph.on_index_change(index, self._membership_teller(index))
        mesh.graph.on_change(self._sight.destinations, self._destinations_changed)

    def subscribe(self, member: Membership, scope: F) -> None:
        """Tell `scope` the members under one index key, now and as they change."""
        self._members.setdefault((member.index, member.key), {})[scope] = member
        scope.member_changes(member, member.index.live(member.key), ())

    def unsubscribe(self, member: Membership, scope: F) -> None:
        members = self._members[member.index, member.key]
        del members[scope]
        if not members:
            del self._members[member.index, member.key]
        member.index.release(member.key)

    def follow_destinations(self, virtual: Any, scope: F) -> tuple[Any, ...]:
        """Return the hosts that a VirtualService sends to; `scope` is told as they change."""
        key = (scope.view.namespace, scope.view.scope, virtual)
        self._senders.setdefault(key, set()).add(scope)
        hosts: tuple[Any, ...] = self._sight.destinations.live(key, ())
        return hosts

    def forget_destinations(self, virtual: Any, scope: F) -> None:
        key = (scope.view.namespace, scope.view.scope, virtual)
        followers = self._senders[key]
        followers.discard(scope)
        if not followers:
            del self._senders[key]
        self._sight.destinations.release(key)

    def _membership_teller(self, index: Index[Any, Any]) -> Callable[[list[tuple[Any, Any, Any]]], None]:
        def tell(changes: list[tuple[Any, Any, Any]]) -> None:
            for key, added, removed in changes:
                for scope, member in self._members.get((index, key), {}).items():
                    scope.member_changes(member, added, removed)
                    self._touch(scope)

        return tell

    def _destinations_changed(self, changes: list[tuple[Any, Any, Any]]) -> None:
        for key, _, hosts in changes:
            for scope in self._senders.get(key, ()):
                scope.destinations_changed(key[2], hosts)
                self._touch(scope)
