"""Why something was not fetched: one word for metrics, one sentence for people."""

from __future__ import annotations

from typing import Literal

from lateen.errors import Unavailable

__all__ = ["FetchError", "Reason"]

Reason = Literal[
    "url",  # no URL that is fetched: scheme, credentials in it, characters
    "refused",  # the address is not one to reach
    "dns",  # the name has no address, or nobody says
    "connect",  # nobody answers there
    "tls",  # who answers has not proven who it is
    "redirect",  # too many, or to something that is not followed
    "status",  # another answer than 200
    "too-large",
    "malformed",  # not HTTP, or cut off
    "timeout",
]


class FetchError(Unavailable):
    """Nothing was fetched. `reason` is of bounded value; the text names host and port, never a query or credentials."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
