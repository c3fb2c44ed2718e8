"""What a proxy is told about tokens: the value between the model and `lateen.pilot.translate`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_REQUEST_AUTH", "RequestAuth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuth:
    """The tokens that one listener takes. Without issuers nothing is looked at."""


NO_REQUEST_AUTH = RequestAuth()
