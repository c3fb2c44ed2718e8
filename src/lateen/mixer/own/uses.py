"""Adapters of one's own, as the engine uses them: bound to one rule."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from lateen.mixer.adapter import AdapterError, Client, Verdict
from lateen.mixer.own.adapters import OwnAdapters
from lateen.mixer.own.binding import Binding

__all__ = ["OwnCheck", "OwnReport"]


class OwnCheck:
    """A check adapter of one rule."""

    def __init__(self, own: OwnAdapters, binding: Binding) -> None:
        self._own = own
        self.binding = binding

    async def check(self, values: Mapping[str, Any], client: Client, seconds: float) -> Verdict:
        try:
            async with asyncio.timeout(seconds):
                return await self._own.ask(self.binding, dict(values), seconds)
        except TimeoutError:
            raise AdapterError(f"adapter {self.binding.name}: no answer within {seconds:.3g} s") from None


class OwnReport:
    """A report adapter of one rule."""

    def __init__(self, own: OwnAdapters, binding: Binding) -> None:
        self._own = own
        self.binding = binding

    def put(self, values: Mapping[str, Any]) -> bool:
        return self._own.put(self.binding, dict(values))
