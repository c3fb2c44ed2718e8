"""The application's own SVID: asked for when the application first asks, renewed for as long as the agent runs.

It has keys of its own. Those of the proxy's SVID stay with the agent and the proxy: what an application is given it may
leak, and that must not be what the mesh's traffic is encrypted under.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from lateen.agent.identity import Svid
from lateen.errors import LateenError, Unavailable

__all__ = ["OnDemand"]

FIRST_SECONDS = 20.0  # for the first SVID to come: Citadel may be starting


class Renewed(Protocol):
    """The part of `Identity` that is needed here."""

    current: Svid | None

    def listen(self, listener: Callable[[Svid], None]) -> None: ...

    async def wait(self) -> Svid: ...

    async def run(self) -> None: ...

    def expect(self, signing_path: str) -> None: ...


class OnDemand:
    """Runs one identity from the first `get` on. `stop` it."""

    def __init__(self, make: Callable[[], Renewed], on_renewed: Callable[[], None]) -> None:
        """`on_renewed` is told that `get` returns another one from now on."""
        self._make = make
        self._on_renewed = on_renewed
        self._identity: Renewed | None = None
        self._running: asyncio.Task[None] | None = None
        self._signing_path = ""

    async def get(self) -> Svid:
        """Return the SVID of now, the first one as soon as there is one.

        Raises `Refused` or `BadInput` when Citadel gives none, `Unavailable` when it does not answer in time. Asked
        again, it tries again.
        """
        if self._running is None or self._running.done():
            self._identity = self._make()
            self._identity.expect(self._signing_path)
            self._identity.listen(lambda _: self._on_renewed())
            self._running = asyncio.create_task(self._identity.run(), name="application's identity")
        identity, running = self._identity, self._running
        assert identity is not None
        if identity.current is not None:
            return identity.current
        first = asyncio.create_task(identity.wait(), name="application's first SVID")
        try:
            done, _ = await asyncio.wait((first, running), timeout=FIRST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if first in done:
                return first.result()
            if running in done:
                running.result()  # raises why it ended
            raise Unavailable("no SVID from Citadel in time")
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    def expect(self, signing_path: str) -> None:
        """Replace the SVID soon if it was signed by another way than this one (`lateen.wire.trust`)."""
        self._signing_path = signing_path
        if self._identity is not None:
            self._identity.expect(signing_path)

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            try:
                await self._running
            except (asyncio.CancelledError, LateenError):
                return
