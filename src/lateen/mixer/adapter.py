"""What the engine asks beside itself: adapters of checks, bound to one rule's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lateen.adapters import AdapterError, Verdict
from lateen.expr import Expression

__all__ = ["AdapterError", "CheckAdapter", "Client", "Question", "Verdict"]


@dataclass(frozen=True, slots=True)
class Client:
    """Who is decided about, by what is proven: nothing that is remembered of one is told of another."""

    principal: str | None  # of the certificate
    claims: Any  # of the verified token, None without one


class CheckAdapter(Protocol):
    async def check(self, values: Mapping[str, Any], client: Client) -> Verdict:
        """Return the verdict; `values` are what the rule's expressions say, those without a value left out.

        Raises: AdapterError. Whoever asks bounds the time.
        """


@dataclass(frozen=True, slots=True)
class Question:
    """What one rule asks of one adapter."""

    part: str  # "webhook": for problems and metrics
    adapter: CheckAdapter
    values: tuple[tuple[str, Expression], ...]
