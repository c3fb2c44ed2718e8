"""Who asks for a certificate: ways to tell, tried in turn; the first that succeeds decides.

On the local socket there is one, `LocalTrust`. For agents elsewhere there are those of `callers`, for pods that of
`kubernetes_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lateen.errors import BadInput, Refused
from lateen.wire.ca import IDENTITY_METADATA
from lateen.wire.spiffe import SpiffeId, parse_workload_identity

__all__ = ["Authenticator", "CallContext", "Caller", "LocalTrust", "PodHost", "authenticate"]


class CallContext(Protocol):
    """The part of `grpc.aio.ServicerContext` that authenticators read."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who was recognised, and how. A certificate carries exactly one identity, so there is one."""

    identity: SpiffeId
    source: str  # the authenticator: "local-trust", "join-token", "client-certificate", "kubernetes"
    token: str = ""  # name of the join token that was used
    give_back: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)  # nothing was issued
    host: PodHost | None = None  # of a pod: where it runs, which decides for whom it may stand


@dataclass(frozen=True, slots=True, kw_only=True)
class PodHost:
    """The pod that a token is bound to, and its node; from the cluster's word for the token, not from the caller."""

    cluster: str
    namespace: str
    pod: str
    uid: str
    node: str  # "" where the cluster does not say


class Authenticator(Protocol):
    """One way to recognise a caller."""

    async def authenticate(self, context: CallContext) -> Caller | None:
        """Return who calls; None when the call carries nothing of this authenticator's kind.

        Raises `Refused` when it does, and it is wrong. The caller sees that message: no word in it about others.
        """


@dataclass(frozen=True, slots=True)
class LocalTrust:
    """Believes whoever reaches the socket: a door before it lets in one user only, whose own workloads these are.

    The door holds the kernel's word for it (SO_PEERCRED, `wire.doors`), not the folder's mode. The wanted
    identity comes as gRPC metadata, `lateen-identity: <namespace>/<service account>`. Never to be used on a server that
    listens on anything but that socket: anyone there would get any identity (assurance 11).
    """

    trust_domain: str

    async def authenticate(self, context: CallContext) -> Caller | None:
        wanted = [value for key, value in context.invocation_metadata() or () if key == IDENTITY_METADATA]
        if not wanted:
            return None
        if len(wanted) != 1 or not isinstance(wanted[0], str):
            raise Refused(f"{IDENTITY_METADATA}: one value wanted, got {len(wanted)}")
        try:
            return Caller(parse_workload_identity(wanted[0], self.trust_domain), "local-trust")
        except BadInput as error:
            raise Refused(f"{IDENTITY_METADATA}: {error}") from error


async def authenticate(authenticators: Sequence[Authenticator], context: CallContext) -> Caller:
    """Return what the first authenticator that recognises the caller says. Raises `Refused` when none does."""
    refusal: Refused | None = None
    for authenticator in authenticators:
        try:
            caller = await authenticator.authenticate(context)
        except Refused as error:
            refusal = refusal or error
            continue
        if caller is not None:
            return caller
    raise refusal or Refused("the call carries no credentials of a kind that is taken here")
