"""What an external authority is to Citadel: one method that matters, and whoever has it can be chosen by configuration.

In:  an `Order`: a CSR whose key and names are checked already. Out: PEM, the leaf first.
Nothing that comes back is believed: `check` holds it against the order before anybody gets it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from lateen.api.base import Spec
from lateen.wire.spiffe import SpiffeId

__all__ = ["Context", "ExternalAuthority", "NoParameters", "Order", "Profile"]

Profile = Literal["leaf", "intermediate"]


class NoParameters(Spec, frozen=True, kw_only=True):
    """Of an authority that has nothing to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an authority is made with, besides its parameters."""

    trust_domain: str
    folder: Path  # of the configuration file: relative paths in parameters begin here
    timeout: timedelta  # of one order; whoever calls gives up after it
    concurrency: int  # orders at once, at most

    def path(self, text: str) -> Path:
        """Return the path that a parameter names."""
        return self.folder / text


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One certificate that is wanted.

    The CSR's signature is verified, and it asks for no authority, no usage and no name but these. An authority that
    takes names from the call must set them; one that reads the CSR must have `names_in_csr`.
    """

    profile: Profile
    csr: bytes  # PEM, one block
    lifetime: timedelta  # whole seconds, from now on; less may be given, more is refused
    spiffe_id: SpiffeId | None = None  # the one URI name; None for an intermediate
    dns_names: tuple[str, ...] = ()  # of the control plane's own certificate; workloads have none
    names_in_csr: bool = True  # False: the CSR has no names at all


class ExternalAuthority(ABC):
    """Signs somewhere else. Subclass it: everything but `sign` has a default that fits most.

    It is made on the event loop's thread, where it may not wait.
    """

    Parameters: ClassVar[type[Spec]] = NoParameters  # decoded strictly from the file
    profiles: ClassVar[frozenset[Profile]] = frozenset({"leaf"})  # what it can sign

    def __init__(self, parameters: Any, context: Context) -> None:
        """`parameters` is an instance of `Parameters`. May raise `BadInput`."""
        self.parameters = parameters
        self.context = context

    @staticmethod
    def check(parameters: Any, profile: Profile) -> Iterator[tuple[str, str]]:
        """Yield (field, fault) of parameters whose shape is right; they are told with file and line."""
        yield from ()

    @abstractmethod
    def sign(self, order: Order) -> Any:
        """Return the certificate, then those between it and the root, in PEM (`bytes`). The root may follow.

        `async def`, or a plain function, which is called in a thread. Raises `Unavailable` when trying again may help,
        `Refused` when the authority says no, `BadInput` when the order's CSR is at fault. Cancelled at the time-out.
        """

    async def roots(self) -> bytes | None:
        """Return the roots it signs below, in PEM, over a channel that is verified; None: it cannot tell."""
        return None

    async def run(self) -> None:  # noqa: B027 most have nothing to do
        """Do what has to be done between orders (a token to renew), until cancelled. May end at once."""

    async def close(self) -> None:  # noqa: B027 most hold nothing
        """Free what is held."""

    def describe(self) -> Mapping[str, str]:
        """Return what `lateen ca status` shows of it; no secrets."""
        return {}
