"""Whom this workload believes: bundles from the control plane taken into use, and the way back when it was left behind.

A bundle rules as long as the stream that brings it stands. A workload that was away while the root was replaced finds a
control plane whose certificate it cannot verify; then the roots that come with a certificate count, if that was asked
for after the stream was lost. Such an answer is never older than what was vouched for: the old root leaves only after
all that hold it have ended or were given up.
"""

from __future__ import annotations

from collections.abc import Callable

from lateen.agent.identity import Identity, Svid
from lateen.agent.log import Log
from lateen.agent.secret_store import CONTROL_PLANE_ROOTS, PEER_ROOTS, SecretStore
from lateen.errors import BadInput
from lateen.wire.trust import TrustUpdate

__all__ = ["TrustKeeper"]


class TrustKeeper:
    """Feeds the secret store. `on_taken` is told each bundle once Envoy uses it."""

    def __init__(
        self,
        secrets: SecretStore,
        identity: Identity,
        *,
        trust_domain: str,
        on_taken: Callable[[TrustUpdate], None],
        log: Log,
    ) -> None:
        self._secrets = secrets
        self._identity = identity
        self._trust_domain = trust_domain
        self._on_taken = on_taken
        self._log = log
        self._lost_at: int | None = None  # how many certificates had been asked for when the stream was lost
        self.outdated = False  # what is in use is not what was vouched for

    async def take(self, update: TrustUpdate) -> str:
        """Have peers checked by a new bundle; return "" once Envoy does, or why it does not. Raises `BadInput`."""
        domain = self._trust_domain
        if not update.bundle.pem(domain):
            return f"trust bundle without roots of the mesh's own trust domain {domain!r}"
        before, revoked = self._secrets.bundle, self._secrets.revoked
        self._secrets.set_bundle(update.bundle, domain, update.revoked.encode())
        refusal = await self._secrets.taken(PEER_ROOTS, CONTROL_PLANE_ROOTS)
        if refusal:
            if before is not None:
                self._secrets.set_bundle(before, domain, revoked)  # for an Envoy that starts anew
            return f"refused by Envoy: {refusal}"
        self.outdated = False
        self._log.info("trust bundle in use", version=update.bundle.version, trust_domains=len(update.bundle.roots))
        self._identity.expect(update.signing_path)
        self._on_taken(update)
        return ""

    def roots(self, svid: Svid) -> bytes:
        """Return what the control plane's certificate is to be checked by now."""
        return self._secrets.roots(svid, self._trust_domain)

    def stood(self) -> None:
        """Take note that the stream stands."""
        self._lost_at = None

    def lost(self) -> None:
        """Take note that it does not."""
        if self._lost_at is None:
            self._lost_at = self._identity.requests

    def certificate_received(self, svid: Svid) -> None:
        """Take the roots beside a new certificate where the control plane cannot be reached by those in use."""
        bundle = self._secrets.bundle
        if bundle is None or self._lost_at is None or self._identity.requests <= self._lost_at:
            return
        try:
            newer = bundle.with_domain(self._trust_domain, [svid.roots.decode("ascii", "replace")])
            if newer != bundle:
                # Without revocation lists: those of before know nothing of the new authority. The bundle brings them.
                self._secrets.set_bundle(newer, self._trust_domain)
                self._log.warning("roots taken from the authority", version=newer.version)
                self.outdated = True
        except BadInput as error:
            self._log.error("roots beside a certificate refused", reason=str(error))
