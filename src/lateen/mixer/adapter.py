"""What the engine asks beside itself: adapters of checks, bound to one rule's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lateen.adapters import AdapterError, Verdict
from lateen.api.check_mixer import ENVOYS_STATUSES, may_be_written

__all__ = ["AdapterError", "CheckAdapter", "Client", "ReportAdapter", "Verdict", "fault_of"]


@dataclass(frozen=True, slots=True)
class Client:
    """Who is decided about, by what is proven: nothing that is remembered of one is told of another."""

    principal: str | None  # of the certificate
    claims: Any  # of the verified token, None without one


def fault_of(verdict: Verdict) -> str:
    """Return why a verdict cannot be told to Envoy, "" where it can.

    What somebody's code decides is bound to what a rule may say itself (docs/api/Rule.md): names of headers that rules
    may write, texts of one line, a status that Envoy knows.
    """
    for headers in (verdict.headers, verdict.request_headers):
        for name, text in headers.items():
            if not may_be_written(name):
                return f"header {name!r} is none that a rule may write"
            if not text.isprintable():
                return f"header {name} is {text!r}, printable text is wanted"
    if not verdict.allowed and verdict.status not in ENVOYS_STATUSES:
        return f"status is {verdict.status!r}, one that Envoy knows from 300 on is wanted"
    return ""


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
