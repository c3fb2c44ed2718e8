"""The roots of one mesh: which material signs, which roots are believed, and how the one becomes the other.

Owned by the control plane's loop. It has the `Authority` sign by what is in force, keeps every step (`keystore`) before
it acts on it, and decides nothing about proxies: whoever knows them calls `advance` with facts.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog
from cryptography import x509

from lateen.citadel.authority import Authority, Clock, new_serial, utc_now
from lateen.citadel.keystore import FIRST, Keystore, material_of_root
from lateen.citadel.material import Material, load_material, revoked_in, sorted_roots
from lateen.citadel.rotation import Facts, Phase, RotationState, abort, advance, begin, finish, go_without, waits_for
from lateen.citadel.store import RootWish, make_root
from lateen.errors import Expired, LateenError, Refused

__all__ = ["RENEW_SHARE", "Roots"]

RENEW_SHARE = 0.2  # of its life is left when a self-signed root is replaced: Istio's grace period


class Roots:
    """Holds what is in force. `on_change` is called after signer or roots have changed."""

    def __init__(
        self,
        store: Keystore,
        authority: Authority,
        state: RotationState,
        *,
        signing: Material,
        other: Material | None,
        plugged: Path | None,
        wish: RootWish,
        clock: Clock,
        log: Any = None,
    ) -> None:
        self.authority = authority
        self.signing = signing
        self.other = other
        self.state = state
        self.plugged = plugged
        self.problem = ""  # why what is plugged in is not in force
        self.on_change: Callable[[], None] = _nothing
        self.on_step: Callable[[str], None] = _ignore
        self.issued_until: Callable[[], datetime | None] = _unknown  # what the audit trail knows
        self._store = store
        self._wish = wish
        self._clock = clock
        self._log = structlog.get_logger() if log is None else log

    @classmethod
    def open(
        cls,
        folder: Path,
        trust_domain: str,
        *,
        plugged: Path | None = None,
        wish: RootWish | None = None,
        clock: Clock = utc_now,
        log: Any = None,
    ) -> Roots:
        """Return the roots kept in `folder`; what `plugged` holds is used at once by a mesh that has none yet.

        Raises `BadInput`, naming the file, for material that must not be used, and `OSError`. A fault in `plugged` is
        no such thing once something is in force: it is told (`problem`), and what is in force stays.
        """
        wish = wish or RootWish()
        store = Keystore(folder, trust_domain)
        now = clock()
        state = store.state()
        created = False
        first = _first_plugged(store, plugged, now, trust_domain) if state is None else None
        if first is not None:
            signing = first
            state = RotationState(signing=store.put(signing))
            store.put_state(state)
        elif state is None:
            signing, created = store.first_root(now, new_serial, wish)
            state = RotationState(signing=FIRST)
        else:
            state, signing = _load_signing(store, state, plugged, now, trust_domain)
        state, other = _load_other(store, state, now)
        authority = Authority(signing, trust_domain, clock)
        authority.created = created
        roots = cls(
            store, authority, state, signing=signing, other=other, plugged=plugged, wish=wish, clock=clock, log=log
        )
        roots._use()
        roots.look_at_plugged()
        return roots

    @property
    def trusted(self) -> tuple[Any, ...]:
        """All roots that are believed for the trust domain now."""
        return sorted_roots((*self.signing.roots, *(self.other.roots if self.other is not None else ())))

    @property
    def issued(self) -> int:
        """How many certificates were issued since the start."""
        return self.authority.issued

    @property
    def signing_path(self) -> str:
        """By which way certificates are signed now (`lateen.wire.trust`); "" where that is not known."""
        return self.authority.signing_path

    @property
    def revoked(self) -> bytes:
        """Revocation lists of all that may have signed what is in use; none while some of them keep none.

        A verifier that has lists wants one of every authority that it meets, and refuses what it has none of.
        """
        parts = [self.signing.crl, *([self.other.crl] if self.other is not None else [])]
        return b"".join(dict.fromkeys(parts)) if all(parts) else b""

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Tell whether any list names it. One that is out of date counts, too: what is revoked stays so."""
        name = certificate.issuer.public_bytes(), certificate.serial_number
        lists = (self.signing.crl, self.other.crl if self.other is not None else b"")
        return any(name in revoked_in(crl) for crl in lists if crl)

    def revoked_serials(self) -> frozenset[str]:
        """Return the serials, in hexadecimal, of all that any list names."""
        lists = (self.signing.crl, self.other.crl if self.other is not None else b"")
        return frozenset(f"{serial:x}" for crl in lists if crl for _, serial in revoked_in(crl))

    def look_at_plugged(self) -> None:
        """Read the plugged-in folder and do what its content asks for. Does not raise: a fault is told."""
        if self.plugged is None:
            return
        try:
            material = load_material(self.plugged, self._clock(), self.authority.trust_domain)
            self._plug(material)
        except (LateenError, OSError) as error:
            self._tell_problem(str(error))

    def _plug(self, material: Material) -> None:
        state, digest = self.state, material.digest
        if digest == self.signing.digest and state.phase is Phase.DISTRIBUTING:
            # Whoever puts the files in force back wants the others no more; nothing was signed by them.
            state = abort(state, self._clock(), self._clock())
            self._step(state, f"rotation aborted: {self.plugged} has what signs again")
            self._tell_problem("")
        elif digest == self.signing.digest or (state.phase is Phase.DISTRIBUTING and self._other_is(digest)):
            self._tell_problem("")
        elif digest == state.declined:
            self._tell_problem(f"{self.plugged}: its rotation was aborted; what was in force before stays")
        elif state.phase is Phase.REISSUING:
            self._tell_problem(f"{self.plugged}: waits until the rotation that is on has ended")
        elif material.root_set == self.signing.root_set and not self._needs_lists(material):
            self._step(RotationState(signing=self._store.put(material)), "intermediate replaced", signing=material)
            self._tell_problem("")
        else:
            name = self._store.put(material)
            reason = (
                f"{self.plugged} has other {'roots' if material.root_set != self.signing.root_set else 'authorities'}"
            )
            self._step(begin(state, name, reason, self._clock()), "rotation begins", other=material)
            self._tell_problem("")

    def _needs_lists(self, material: Material) -> bool:
        """Whether proxies need revocation lists of another authority before it signs, or of one that has signed."""
        return bool(material.crl or self.signing.crl) and material.certificate != self.signing.certificate

    def _other_is(self, digest: str) -> bool:
        return self.other is not None and self.other.digest == digest

    def rotate(self, reason: str) -> None:
        """Begin to replace the root by a new self-signed one. Raises `Refused`."""
        if self.plugged is not None:
            raise Refused(f"roots come from {self.plugged}: put the new files there, and the rotation begins")
        if self.state.phase is not Phase.STEADY:
            raise Refused(f"a rotation is on already: it is {self.state.phase.value}")
        now = self._clock()
        material = material_of_root(make_root(self._wish, self.authority.trust_domain, now, new_serial()))
        self._step(begin(self.state, self._store.put(material), reason, now), "rotation begins", other=material)

    def renew_if_due(self) -> None:
        """Begin to replace a self-signed root of whose life little is left."""
        root = self.signing.root
        if self.plugged is not None or not self.signing.self_signed or self.state.phase is not Phase.STEADY:
            return
        if self.state.declined == self.signing.digest:
            return  # somebody has gone back to this root: who did will say when it is to be replaced
        life = root.not_valid_after_utc - root.not_valid_before_utc
        left = root.not_valid_after_utc - self._clock()
        if left < life * RENEW_SHARE:
            self.rotate(f"{int(left / life * 100)} % of the root's life are left")

    def abort(self) -> None:
        """Go back to what signed before. Raises `Refused`."""
        state = abort(self.state, self._clock(), self._leaves_until())
        assert self.other is not None
        distributing = self.state.phase is Phase.DISTRIBUTING
        stays, goes = (self.signing, self.other) if distributing else (self.other, self.signing)
        # What has begun it would begin it again: files that are still there, or a root that is still old.
        declined = goes.digest if self.plugged is not None else stays.digest
        state = msgspec.structs.replace(state, declined=declined)
        self._step(state, "rotation aborted", signing=stays, other=None if distributing else goes)

    def finish(self, facts: Facts) -> None:
        """Do not wait for the expiry of certificates that nobody reports. Raises `Refused`."""
        self._step(finish(self.state, facts), "rotation hurried", signing=self.signing, other=self.other)

    def go_without(self, workloads: tuple[str, ...]) -> None:
        """Do not wait for these workloads. Raises `Refused`."""
        self._step(go_without(self.state, workloads), "workloads left behind", signing=self.signing, other=self.other)

    def roots_leave(self) -> bool:
        """Whether the material that does not sign has what the other has not: roots, or a list that is in use."""
        if self.other is None:
            return False
        return not self.other.root_set <= self.signing.root_set or self._needs_lists(self.other)

    def advance(self, facts: Facts) -> None:
        """Do the next step, if all that it needs is there."""
        if waits_for(self.state, facts):
            return
        # Signing changes hands once; only then is the trail read.
        leaves_until = self._leaves_until() if self.state.phase is Phase.DISTRIBUTING else self._clock()
        state = advance(self.state, facts, self._clock(), leaves_until)
        if state == self.state:
            return
        if state.phase is Phase.REISSUING:
            assert self.other is not None
            self._step(state, "new root signs", signing=self.other, other=self.signing)
        else:
            self._step(state, "rotation done")
            self.look_at_plugged()  # it may have changed again meanwhile

    def _leaves_until(self) -> datetime:
        now = self._clock()
        return max(now, self.authority.latest_not_after or now, self.issued_until() or now)

    def _step(
        self, state: RotationState, event: str, *, signing: Material | None = None, other: Material | None = None
    ) -> None:
        """Keep a state, then act by it."""
        self._store.put_state(state)
        self.state, self.signing, self.other = state, signing or self.signing, other
        self._use()
        said = f"{event}: {state.reason}" if state.reason else event
        self._log.info("roots changed", step=event, phase=state.phase.value, reason=state.reason)
        self.on_step(said)
        self.on_change()

    def _use(self) -> None:
        self.authority.use(self.signing, self.trusted)

    def _tell_problem(self, text: str) -> None:
        if text != self.problem:
            if text:
                self._log.error("plugged-in certificates not in force", reason=text)
            else:
                self._log.info("plugged-in certificates in force", folder=str(self.plugged))
        self.problem = text


def _first_plugged(store: Keystore, plugged: Path | None, now: datetime, trust_domain: str) -> Material | None:
    """Return what is plugged in, for a mesh that has nothing in force yet. Raises `BadInput`, `OSError`."""
    if plugged is None or store.has_root():
        return None
    material = load_material(plugged, now, trust_domain)
    return material if store.is_new(material) else None


def _load_signing(
    store: Keystore, state: RotationState, plugged: Path | None, now: datetime, trust_domain: str
) -> tuple[RotationState, Material]:
    """Return what signs. When its time is over, what is plugged in takes its place: there is nothing left to guard."""
    try:
        return state, store.load(state.signing, now)
    except Expired:
        if plugged is None:
            raise
        signing = load_material(plugged, now, trust_domain)
        state = RotationState(signing=store.put(signing))
        store.put_state(state)
        return state, signing


def _load_other(store: Keystore, state: RotationState, now: datetime) -> tuple[RotationState, Material | None]:
    """Return the other material of a rotation; one whose time is over takes the rotation with it."""
    if not state.other:
        return state, None
    try:
        return state, store.load(state.other, now)
    except Expired:
        state = RotationState(signing=state.signing, declined=state.declined)
        store.put_state(state)
        return state, None


def _nothing() -> None:
    return None


def _unknown() -> datetime | None:
    return None


def _ignore(_: str) -> None:
    return None
