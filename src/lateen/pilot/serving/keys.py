"""How the control plane fetches: what it is told about it, and the keeper of issuers' keys that follows from that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from lateen.errors import BadInput
from lateen.fetch import Fetcher, Guard
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.sources.jwks import KeyKeeper
from lateen.pilot.sources.jwks_book import Book, Times
from lateen.settings import Settings

__all__ = ["FetchOptions", "make_key_keeper"]

MIN_REFRESH: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """Where fetches may lead, whom they trust, and how long issuers' keys last.

    Raises `BadInput` for keys that would be dropped before they are renewed.
    """

    guard: Guard = field(default_factory=Guard)
    ca_file: Path | None = None  # roots in PEM, beside the system's
    key_refresh: timedelta = timedelta(minutes=20)
    key_keep: timedelta = timedelta(hours=6)  # since they were fetched last, while they cannot be fetched

    def __post_init__(self) -> None:
        if self.key_refresh < MIN_REFRESH:
            raise BadInput(f"--jwks-refresh is {_seconds(self.key_refresh)}, at least {_seconds(MIN_REFRESH)} wanted")
        if self.key_keep <= self.key_refresh:
            raise BadInput(
                f"--jwks-keep is {_seconds(self.key_keep)}, more than --jwks-refresh "
                f"({_seconds(self.key_refresh)}) wanted: keys would be dropped before they are renewed"
            )

    def arguments(self) -> tuple[str, ...]:
        """Return those that tell another process where it may lead and whom to trust."""
        named = [("--allow-fetch", self.guard.allowed), ("--refuse-fetch", self.guard.refused)]
        reach = [word for option, networks in named for network in networks for word in (option, str(network))]
        return (*reach, *(("--fetch-ca", str(self.ca_file.absolute())) if self.ca_file is not None else ()))

    def fetcher(self) -> Fetcher:
        """Return a fetcher that obeys them."""
        return Fetcher(self.guard, ca_file=self.ca_file)


def make_key_keeper(settings: Settings, options: FetchOptions, pilot: Pilot, on_notes: Callable[[], None]) -> KeyKeeper:
    """Return the keeper of the keys that `pilot` has rules for; it tells them to `pilot`."""
    times = Times(refresh_seconds=options.key_refresh.total_seconds(), keep_seconds=options.key_keep.total_seconds())
    return KeyKeeper(
        options.fetcher(),
        Book(times),
        file=settings.jwks_file,
        clock=time.time,
        on_keys=pilot.take_keys,
        on_notes=on_notes,
    )


def _seconds(value: timedelta) -> str:
    return f"{value.total_seconds():g} s"
