"""Trust on its way to the proxies: the bundle as an xDS resource, and who is known to use which version of it.

An agent acknowledges a bundle once its own Envoy checks peers by it, so what a stream holds is proof, not hope.
Proxyless clients may ask for it too; most read their roots from files, and then nothing is known of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from lateen.pilot.translate.pack import resource_of_bytes
from lateen.pilot.xds.source import Delta, Resource
from lateen.pilot.xds.stream import Stream
from lateen.pilot.xds.type_urls import TRUST
from lateen.wire.local import Registration
from lateen.wire.trust import TrustUpdate
from lateen.wire.trust_messages import TRUST_RESOURCE, TRUST_TYPE_URL, encode_trust

__all__ = ["Holding", "Proxies", "TrustSlice", "trust_holders"]

UNTOLD: Final = "untold"


@dataclass(frozen=True, slots=True)
class Holding:
    """What one proxy is known to use."""

    version: str  # of the resource; "": none yet
    error: str = ""  # why it refuses the one that it is to have


class TrustSlice:
    """The one resource that all proxies share. Implements `xds.source.Slice`."""

    type_url = TRUST

    def __init__(self, publish: Callable[[Delta], None]) -> None:
        """`publish` hands a change to the streams."""
        self._publish = publish
        self._resource: Resource | None = None

    @property
    def version(self) -> str:
        """The version of what is to be held; "" before there is one."""
        return self._resource.version if self._resource is not None else ""

    def put(self, update: TrustUpdate) -> None:
        """Have every proxy told; nothing happens when it is what they hold."""
        made = resource_of_bytes(TRUST_RESOURCE, TRUST_TYPE_URL.rpartition("/")[2], encode_trust(update))
        if made != self._resource:
            self._resource = made
            self._publish(Delta(self, (made,), ()))

    def all(self) -> Mapping[str, Resource]:
        return {} if self._resource is None else {TRUST_RESOURCE: self._resource}

    def get(self, name: str) -> Resource | None:
        return self._resource if name == TRUST_RESOURCE else None

    def release(self, name: str) -> None:
        """Nothing to do: there is one, and it is told to all."""


class Proxies:
    """What is known of the proxies of one control plane. Implements `root_service.Census`."""

    def __init__(
        self,
        slice: TrustSlice,  # the word of this server
        streams: Callable[[], Iterable[Stream]],
        registrations: Callable[[], Iterable[Registration]],
    ) -> None:
        self.slice = slice
        self.untold = ""  # why what is believed now cannot be told
        self._streams = streams
        self._registrations = registrations

    def registrations(self) -> Iterable[Registration]:
        return self._registrations()

    def holders(self) -> dict[str, Holding]:
        return trust_holders(self._streams())

    def connected(self) -> set[str]:
        return {stream.proxy.name for stream in self._streams()}

    def version(self) -> str:
        """Return what all are to hold; what nobody can hold while that cannot be told."""
        return UNTOLD if self.untold else self.slice.version


def trust_holders(streams: Iterable[Stream]) -> dict[str, Holding]:
    """Return what each connected workload that follows trust is known to use, by its name.

    Where a workload has two streams (the old one is not known to be dead yet), the newest counts.
    """
    found: dict[str, Holding] = {}
    for stream in streams:  # oldest first
        state = stream.types.get(TRUST)
        if state is not None:
            rejection = state.rejected.get(TRUST_RESOURCE)
            version = stream.held(TRUST).get(TRUST_RESOURCE, "")
            found[stream.proxy.name] = Holding(version, rejection.error if rejection is not None else "")
    return found
