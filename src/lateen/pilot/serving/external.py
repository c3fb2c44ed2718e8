"""An authority elsewhere in a running control plane: `lateen up --authority FILE`, in place of a root of its own.

In mode `intermediate` it signs one certificate, which then is what an operator plugs in: files in a folder that
`citadel.roots` follows. In mode `leaf` it signs each certificate, and nothing in this process can: `PinnedRoots` stand
where material stands else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, Self, cast

import structlog
from cryptography import x509

from lateen.api.base import Problem
from lateen.citadel.authority import Authority, utc_now
from lateen.citadel.external.config import AuthorityConfig, load_authority_config
from lateen.citadel.external.guard import Guard
from lateen.citadel.external.identity import AwaitedServerIdentity
from lateen.citadel.external.interface import ExternalAuthority
from lateen.citadel.external.intermediate import IntermediateKeeper
from lateen.citadel.external.issuer import ExternalIssuer
from lateen.citadel.external.roots import choose_roots
from lateen.citadel.keystore import Keystore
from lateen.citadel.material import Material
from lateen.citadel.roots import Roots
from lateen.citadel.rotation import RotationState
from lateen.citadel.server_identity import LIFETIME
from lateen.citadel.store import RootWish
from lateen.errors import Refused, Unavailable

__all__ = ["Elsewhere", "RootsElsewhere"]

log = structlog.get_logger(__name__)

TELL_LIES_SECONDS: Final = 3600.0  # after the last one
RUN_AGAIN_SECONDS: Final = 30.0


class Elsewhere:
    """One external authority, its tasks, and what it has signed for this process."""

    def __init__(
        self,
        file: Path,
        config: AuthorityConfig,
        authority: ExternalAuthority,
        guard: Guard,
        roots: tuple[x509.Certificate, ...],
        folder: Path,
    ) -> None:
        self.file = file
        self.config = config
        self.roots = roots
        self.keeper: IntermediateKeeper | None = None  # of mode `intermediate`
        self.issuer: ExternalIssuer | None = None  # of mode `leaf`
        self._authority = authority
        self._guard = guard
        self._folder = folder
        self._identity: AwaitedServerIdentity | None = None
        self._lies = 0  # that were known at `_lied_at`
        self._lied_at = 0.0

    @classmethod
    async def open(cls, stack: contextlib.AsyncExitStack, file: Path, trust_domain: str, folder: Path) -> Self:
        """Return the authority of a file; leaving `stack` ends it. `folder` is its own in the state folder.

        Raises `BadInput`, naming file, line and field; `Unavailable` or `Refused` when there is nothing yet to start
        with and the authority gives nothing.
        """
        config = load_authority_config(file, trust_domain)
        _make_private(folder)
        authority = config.make()
        guard = Guard(
            authority, name=config.kind, timeout=config.context.timeout, concurrency=config.context.concurrency
        )
        stack.push_async_callback(guard.close)
        _keep_running(stack, _run(authority, config.kind), "authority")
        roots = await choose_roots(authority, name=config.kind, file=config.roots_file, folder=folder, now=utc_now())
        found = cls(file, config, authority, guard, roots, folder)
        if config.profile == "leaf":
            found.issuer = ExternalIssuer(guard, trust_domain, roots)
        else:
            found.keeper = IntermediateKeeper(guard, roots, folder, lifetime=config.intermediate_lifetime)
            await found.keeper.ensure()
            _keep_running(stack, found.keeper.run(), "intermediate")
        log.info("authority elsewhere", kind=config.kind, mode=config.profile, file=str(file))
        return found

    @property
    def plugged(self) -> Path | None:
        """The folder of the intermediate in force, in mode `intermediate`."""
        return self.keeper.material if self.keeper is not None else None

    async def server_identity(
        self, stack: contextlib.AsyncExitStack, authority: Authority, lifetime: timedelta | None
    ) -> AwaitedServerIdentity:
        """Return the control plane's own certificate, of mode `leaf`. Raises `Unavailable` when there is none yet."""
        assert self.issuer is not None
        self._identity = await AwaitedServerIdentity.open(
            self.issuer, authority, self._folder, lifetime=lifetime or LIFETIME
        )
        _keep_running(stack, self._identity.run(), "own certificate")
        return self._identity

    def describe(self) -> Mapping[str, str]:
        """Return what `lateen ca status` shows of it."""
        report = self._guard.report()
        state = "works" if report.working else f"does not work: {report.fault}"
        if not report.working and report.asked_again_seconds:
            state += f"; asked again in {report.asked_again_seconds:.0f} s"
        counts = f"{report.orders} sent, {report.failed} failed, {report.refused} refused, {report.lies} not to be used"
        return {
            "authority": self.config.kind,
            "mode": self.config.profile,
            "file": str(self.file),
            **self._authority.describe(),
            "state": state,
            "orders": counts,
            **({"intermediate renewed": _moment(self.keeper.renew_at)} if self.keeper is not None else {}),
        }

    def problems(self) -> list[Problem]:
        """Return what is wrong with it now."""
        found = []
        report = self._guard.report()
        if not report.working:
            found.append(f"the authority {self.config.kind} does not work: {report.fault}")
        if self.keeper is not None and self.keeper.fault:
            found.append(f"the next intermediate is late: {self.keeper.fault}")
        if self._identity is not None and self._identity.fault:
            found.append(f"the control plane's own certificate is not renewed: {self._identity.fault}")
        if report.lies > self._lies:
            self._lies, self._lied_at = report.lies, time.monotonic()
        if self._lies and time.monotonic() - self._lied_at < TELL_LIES_SECONDS:
            found.append(
                f"{report.lies} certificates of {self.config.kind} were not what was asked for, and handed to nobody"
            )
        return [Problem(str(self.file), 1, "", text, "warning") for text in found]


class PinnedRoots(Material):
    """Roots that are believed, where nothing in this process signs."""

    __slots__ = ()

    def sign(self, builder: x509.CertificateBuilder) -> NoReturn:
        raise Unavailable("certificates are signed by the authority elsewhere, one call each")

    @property
    def self_signed(self) -> bool:
        return False

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return (self.root,)


class RootsElsewhere(Roots):
    """The roots of an authority that signs each certificate; other ones come with a start of the control plane."""

    def __init__(self, elsewhere: Elsewhere, trust_domain: str, folder: Path) -> None:
        roots = elsewhere.roots
        first = min(roots, key=lambda root: root.not_valid_after_utc)
        nothing = cast("Any", None)  # no key of it is here
        signing = PinnedRoots(certificate=first, key=nothing, root=first, roots=roots)
        super().__init__(
            Keystore(folder, trust_domain),
            Authority(signing, trust_domain),
            RotationState(signing="elsewhere"),
            signing=signing,
            other=None,
            plugged=None,
            wish=RootWish(),
            clock=utc_now,
        )
        self._elsewhere = elsewhere
        self._use()

    @property
    def issued(self) -> int:
        return self._elsewhere.issuer.issued if self._elsewhere.issuer is not None else 0

    @property
    def signing_path(self) -> str:
        return ""  # the authority's own affair: no agent renews because of it

    def rotate(self, reason: str) -> None:
        raise Refused(
            f"roots are those of the authority: name both, old and new, in the field roots of {self._elsewhere.file} "
            "and start the control plane again"
        )


def _make_private(folder: Path) -> None:
    """Make the folder, for its owner alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)


async def _run(authority: ExternalAuthority, kind: str) -> None:
    """Do what the authority's class has to do between orders, again after a while where that fails."""
    while True:
        try:
            await authority.run()
        except Exception as error:  # somebody else's class: orders tell what follows from it
            log.error("task of an authority failed", authority=kind, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(RUN_AGAIN_SECONDS)
        else:
            return


def _keep_running(stack: contextlib.AsyncExitStack, work: Awaitable[None], name: str) -> None:
    task = asyncio.ensure_future(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


def _moment(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else "now"
