"""What the engine asks beside itself: adapters of checks, bound to one rule's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lateen.adapters import AdapterError, Verdict

__all__ = ["AdapterError", "CheckAdapter", "Client", "ReportAdapter", "Verdict"]


@dataclass(frozen=True, slots=True)
class Client:
    """Who is decided about, by what is proven: nothing that is remembered of one is told of another."""

    principal: str | None  # of the certificate
    claims: Any  # of the verified token, None without one


class CheckAdapter(Protocol):
    async def check(self, values: Mapping[str, Any], client: Client, seconds: float) -> Verdict:
        """Return the verdict; `values` are what the rule's expressions say, those without a value left out.

        Raises: AdapterError, also after `seconds`. Cancelled: nobody wants to know any more.
        """


class ReportAdapter(Protocol):
    def put(self, values: Mapping[str, Any]) -> bool:
        """Take what a rule's expressions say of one request that is over; False: there is no room.

        It is kept and told later, with others: nothing waits for it.
        """
