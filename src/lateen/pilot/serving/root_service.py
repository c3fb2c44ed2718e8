"""Roots in a running control plane: what proxies have proven moves a rotation on; `lateen ca` shows and steers it.

Every registered workload counts. What it trusts is told by its agent's stream (`trust`), which certificate it uses by
its registration; both are said by the agent only once its Envoy does so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lateen.citadel.authority import Clock, utc_now
from lateen.citadel.material import file_stamps
from lateen.citadel.roots import Roots
from lateen.citadel.rotation import Facts, Phase, Waiting, waits_for
from lateen.errors import BadInput, Refused
from lateen.pilot.serving.trust import Holding
from lateen.wire.authority import (
    AUTHORITY_METHODS,
    AUTHORITY_SERVICE,
    AuthorityReport,
    LinkInfo,
    ReportQuery,
    RotateOrder,
    RotationInfo,
    WaitingInfo,
)
from lateen.wire.control import service_handlers
from lateen.wire.local import Registration

__all__ = ["Census", "RootService", "link_info"]

log = structlog.get_logger(__name__)

BUSY_SECONDS: Final = 0.2  # between looks while a rotation is on
IDLE_SECONDS: Final = 1.0  # and else: files that were plugged in, a root that grows old
RETRY: Final = timedelta(seconds=30)  # after plugged-in files that could not be put in force
MAX_WITHOUT: Final = 1000


class Census(Protocol):
    """What is known of the proxies."""

    def registrations(self) -> Iterable[Registration]: ...

    def holders(self) -> dict[str, Holding]:
        """By workload: which bundle its proxy has proven to use."""

    def connected(self) -> set[str]:
        """Names of all that hold a stream, also of clients that are their own proxies."""

    def version(self) -> str:
        """The version of the bundle that all are to use."""


class Nobody:
    """A census before there are proxies."""

    def registrations(self) -> Iterable[Registration]:
        return ()

    def holders(self) -> dict[str, Holding]:
        return {}

    def connected(self) -> set[str]:
        return set()

    def version(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class _Look:
    """The proxies at one moment."""

    facts: Facts
    workloads: int
    trusting: int
    unproven: tuple[str, ...]


class RootService:
    """Drives one `Roots`; answers `lateen.local.v1.Authority`."""

    def __init__(
        self, roots: Roots, *, default: Path | None = None, settle: timedelta = timedelta(0), clock: Clock = utc_now
    ) -> None:
        """`default` is a folder from which certificates are plugged in once it has some, where no other is named.

        `settle` is how long new roots are believed at least before anything is signed by them.
        """
        self._settle = settle
        self.roots = roots
        self._default = default
        self.census: Census = Nobody()
        self.fault = ""  # why the last look did not come to its end
        self.elsewhere: Callable[[], Mapping[str, str]] | None = None  # what is known of an authority elsewhere
        self._clock = clock
        self._stamps = file_stamps(roots.plugged) if roots.plugged is not None else ()
        self._seen = self._stamps
        self._tried = clock()  # when plugged-in files were read last

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what `server.add_generic_rpc_handlers` wants."""
        return service_handlers(AUTHORITY_SERVICE, AUTHORITY_METHODS, self)

    async def run(self) -> None:
        """Follow files, time and proxies until cancelled."""
        while True:
            began = time.perf_counter()
            try:
                self.look()
            except Exception as error:  # a full disk, say: the step is tried again, and roots stay as they are
                if str(error) != self.fault:
                    log.exception("roots not looked after")
                self.fault = str(error)
            else:
                self.fault = ""
            taken = time.perf_counter() - began
            steady = self.roots.state.phase is Phase.STEADY
            # In a mesh of ten thousand a look takes long enough to be worth fewer of them.
            await asyncio.sleep(IDLE_SECONDS if steady else max(BUSY_SECONDS, 20 * taken))

    def look(self) -> None:
        """Do everything that is due now."""
        self._look_at_files()
        self.roots.renew_if_due()
        if self.roots.state.phase is not Phase.STEADY and not isinstance(self.census, Nobody):
            self.roots.advance(self._count().facts)

    def _look_at_files(self) -> None:
        """Read plugged-in files once they have changed and then stayed the same for one look: a set is several."""
        if self.roots.plugged is None and self._default is not None and file_stamps(self._default):
            self.roots.plugged = self._default
        if self.roots.plugged is None:
            return
        stamps = file_stamps(self.roots.plugged)
        settled, self._seen = stamps == self._seen, stamps
        now = self._clock()
        # The same files again, too: a disk was full, a clock was off, a certificate did not hold yet.
        again = bool(self.roots.problem) and now - self._tried >= RETRY
        if settled and (stamps != self._stamps or again):
            self._stamps, self._tried = stamps, now
            self.roots.look_at_plugged()

    def _count(self) -> _Look:
        holders, version = self.census.holders(), self.census.version()
        path = self.roots.signing_path
        untrusting: list[Waiting] = []
        unrenewed: list[Waiting] = []
        names: set[str] = set()
        for registration in self.census.registrations():
            names.add(registration.name)
            if reason := _untrusting(holders.get(registration.name), version):
                untrusting.append(Waiting(registration.name, reason))
            if reason := _unrenewed(registration, path):
                unrenewed.append(Waiting(registration.name, reason))
        settles = self._settles_until()
        facts = Facts(
            untrusting=tuple(untrusting),
            unrenewed=tuple(unrenewed),
            roots_leave=self.roots.roots_leave(),
            settled=settles is None or self._clock() >= settles,
        )
        return _Look(facts, len(names), len(names) - len(untrusting), tuple(sorted(self.census.connected() - names)))

    def _settles_until(self) -> datetime | None:
        state = self.roots.state
        return state.since + self._settle if state.phase is Phase.DISTRIBUTING and state.since is not None else None

    # ---- lateen.local.v1.Authority

    async def report(self, _: ReportQuery) -> AuthorityReport:
        return self.tell()

    async def rotate(self, order: RotateOrder) -> AuthorityReport:
        roots = self.roots
        match order.action:
            case "root":
                roots.rotate("asked for")
            case "intermediate":
                raise Refused(_about_intermediates(roots) if self.elsewhere is None else _ABOUT_THE_AUTHORITY)
            case "abort":
                roots.abort()
            case "finish":
                roots.finish(self._count().facts)
            case "without" if 0 < len(order.without) <= MAX_WITHOUT:
                known = {registration.name for registration in self.census.registrations()}
                for name in order.without:
                    if name not in known:
                        raise BadInput(f"no workload {name!r} is registered; lateen ca rotate names those waited for")
                roots.go_without(order.without)
            case _:
                raise BadInput(
                    f"action: 'root', 'intermediate', 'abort', 'finish' or 'without' wanted, got {order.action!r}"
                )
        self.look()
        return self.tell()

    def tell(self) -> AuthorityReport:
        """Return what stands now."""
        roots, look = self.roots, self._count()
        state, chain = roots.state, roots.signing.chain
        return AuthorityReport(
            trust_domain=roots.authority.trust_domain,
            source="elsewhere"
            if self.elsewhere is not None
            else str(roots.plugged)
            if roots.plugged is not None
            else "self-signed",
            elsewhere=dict(self.elsewhere()) if self.elsewhere is not None else {},
            problem=roots.problem,
            chain=tuple(
                link_info(link, "root" if link == chain[-1] else "intermediate" if n else "signer")
                for n, link in enumerate(chain)
            ),
            roots=tuple(link_info(root, "root") for root in roots.trusted),
            signing_path=roots.signing_path,
            bundle_version=self.census.version(),
            trusting=look.trusting,
            workloads=look.workloads,
            unproven=look.unproven,
            rotation=RotationInfo(
                phase=state.phase.value,
                reason=state.reason,
                since=_moment(state.since),
                settles_until=_moment(self._settles_until()),
                leaves_until=_moment(state.leaves_until),
                waits_for=tuple(
                    WaitingInfo(workload=each.workload, reason=each.reason) for each in waits_for(state, look.facts)
                ),
                without=state.without,
            ),
            issued=roots.issued,
        )


_ABOUT_THE_AUTHORITY = (
    "the authority elsewhere is asked for the next intermediate by itself, at two thirds of the life of this one; "
    "where it signs each certificate there is none"
)


def _about_intermediates(roots: Roots) -> str:
    if roots.plugged is None:
        return (
            "the self-signed root signs by itself: an intermediate whose key lies in the same folder would protect "
            "nothing; plug one in with --ca-certs"
        )
    return (
        f"put the new ca-cert.pem, ca-key.pem, cert-chain.pem into {roots.plugged}: under the same root they sign at "
        "once, and every certificate is reissued"
    )


def _untrusting(holding: Holding | None, version: str) -> str:
    if holding is None:
        return "its agent is not connected"
    if holding.error:
        return f"refuses the bundle: {holding.error}"
    return "" if holding.version == version else "has not taken the bundle yet"


def _unrenewed(registration: Registration, path: str) -> str:
    if registration.certificate is None:
        return "has no certificate yet"
    return "" if registration.certificate.signing_path == path else "uses a certificate of the one before"


def link_info(certificate: x509.Certificate, role: str) -> LinkInfo:
    """Return what people and programs want to know of a certificate."""
    return LinkInfo(
        role=role,
        subject=certificate.subject.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        key=_key_name(certificate),
        not_before=_moment(certificate.not_valid_before_utc),
        not_after=_moment(certificate.not_valid_after_utc),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
    )


def _key_name(certificate: x509.Certificate) -> str:
    match certificate.public_key():
        case ec.EllipticCurvePublicKey() as key:
            return f"P-{key.curve.key_size}"
        case rsa.RSAPublicKey() as key:
            return f"RSA {key.key_size}"
        case key:
            return type(key).__name__


def _moment(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else ""
