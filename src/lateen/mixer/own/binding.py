"""One adapter with one rule's parameters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from lateen.mixer.own.frames import Bind

__all__ = ["Binding"]


@dataclass(slots=True)
class Binding:
    """One adapter with one rule's parameters. `fault`: why it cannot be asked; `place`: below `params`."""

    message: Bind
    fault: str = ""
    place: str = ""
    rows: deque[dict[str, Any]] = field(default_factory=deque)

    @property
    def name(self) -> str:
        return self.message.adapter

    @property
    def key(self) -> int:
        return self.message.number
