"""Requests to URLs that were received: nothing reaches an address that the mesh's operator has not opened."""

from lateen.fetch.caller import Caller
from lateen.fetch.errors import FetchError, Reason
from lateen.fetch.fetcher import Fetched, Fetcher, Limits
from lateen.fetch.guard import Guard

__all__ = ["Caller", "FetchError", "Fetched", "Fetcher", "Guard", "Limits", "Reason"]
