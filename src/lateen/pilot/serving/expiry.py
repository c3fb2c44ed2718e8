"""What of the authority's chain ends when: problems for `lateen status`, long before it happens, and metrics.

Thresholds: a warning when less than a fifth of a link's life is left (that is when self-signed roots are replaced by
themselves, so such a warning tells that it does not get on), or when certificates are shortened because it ends before
they would; an error when both is so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from lateen.api.base import Problem
from lateen.citadel.authority import utc_now
from lateen.citadel.roots import RENEW_SHARE, Roots
from lateen.citadel.rotation import Phase
from lateen.wire.local import Registration

__all__ = ["expiry_metrics", "leaf_problems", "link_expiries", "root_problems"]

SHORT: Final = timedelta(hours=24)  # the default life of a workload's certificate: below, it is clamped
LATE_SHARE: Final = 0.25  # of a certificate's life
LISTS: Final = timedelta(days=2)  # revocation lists are made anew every few days or weeks
OVERDUE: Final = timedelta(hours=1)  # that a rotation waits for workloads before it is told as a problem


def root_problems(roots: Roots, now: datetime | None = None, longest_leaf: timedelta = SHORT) -> list[Problem]:
    """Return what is wrong with roots and chain; `longest_leaf` is how long certificates live when nothing ends."""
    return list(_problems(roots, now or utc_now(), longest_leaf))


def _problems(roots: Roots, now: datetime, longest_leaf: timedelta) -> Iterator[Problem]:
    if roots.problem:
        yield Problem(str(roots.plugged), 0, "", f"plugged-in certificates are not in force: {roots.problem}")
    chain = roots.signing.chain
    for number, link in enumerate(chain):
        role = "root" if link == chain[-1] else "intermediate" if number else "signing certificate"
        left = link.not_valid_after_utc - now
        life = link.not_valid_after_utc - link.not_valid_before_utc
        old, short = left < life * RENEW_SHARE, left < longest_leaf
        if not old and not short:
            continue
        until = f"{link.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
        what = f"{role} {link.subject.rfc4514_string()!r}"
        way = f"put newer files into {roots.plugged}" if roots.plugged is not None else "see lateen ca rotate"
        if left <= timedelta(0):
            yield Problem("", 0, "", f"{what} expired at {until}: nothing can be issued; {way}")
        elif short:
            text = f"{what} expires at {until}, and no certificate outlives it; {way}"
            yield Problem("", 0, "", text, "error" if old else "warning")
        else:
            yield Problem("", 0, "", f"{what} expires at {until}; {way}", "warning")
    ends = roots.signing.lists_until
    if ends is not None and ends - now < LISTS:
        over = "are" if ends <= now else "will be"
        text = f"revocation lists {over} out of date at {ends:%Y-%m-%d %H:%M:%S} UTC: proxies then refuse each other"
        yield Problem(str(roots.plugged), 0, "", f"{text}; put newer ones into ca-crl.pem")
    state = roots.state
    if state.phase is not Phase.STEADY and state.since is not None and now - state.since > OVERDUE:
        waits = state.leaves_until is None or now > state.leaves_until
        if waits:
            text = f"the rotation of the root is {state.phase.value} since {state.since:%Y-%m-%d %H:%M} UTC"
            yield Problem("", 0, "", f"{text}; lateen ca rotate shows what it waits for", "warning")


def expiry_metrics(roots: Roots, now: datetime | None = None) -> Iterator[tuple[str, str, int]]:
    """Yield (name, help, value); the names are Istio's. Seconds are negative once it has expired."""
    now = now or utc_now()
    ends = (
        ("root_cert", "the root that signs", roots.signing.root.not_valid_after_utc),
        ("cert_chain", "the first link of the chain", roots.signing.not_after),
    )
    for name, what, moment in ends:
        yield (
            f"citadel_server_{name}_expiry_timestamp",
            f"when {what} expires, in seconds since 1970",
            int(moment.timestamp()),
        )
        left = int((moment - now).total_seconds())
        yield f"citadel_server_{name}_expiry_seconds", f"until {what} expires", left


def leaf_problems(registrations: Iterable[Registration], now: datetime | None = None) -> Iterator[Problem]:
    """Yield the workloads whose certificate should have been replaced long ago. Looks at all of them: for `status`.

    Agents renew at half of a certificate's life, a tenth later at most; when less than a quarter is left, renewal has
    failed for a while.
    """
    now = now or utc_now()
    for registration in registrations:
        certificate = registration.certificate
        if certificate is None:
            continue
        begin, end = datetime.fromisoformat(certificate.not_before), datetime.fromisoformat(certificate.not_after)
        if end - now >= (end - begin) * LATE_SHARE:
            continue
        what = f"certificate of workload {registration.name!r}"
        why = "its agent has not been able to renew it; see its log"
        if end <= now:
            text = f"{what} expired at {certificate.not_after}: new connections are refused; {why}"
            yield Problem("", 0, "", text, "error")
        else:
            yield Problem("", 0, "", f"{what} expires at {certificate.not_after}; {why}", "warning")


def link_expiries(roots: Roots) -> dict[str, int]:
    """Return when each link of what signs expires, in seconds since 1970, by its place: signer, above-1, ..., root.

    `believed` is the first to expire of all roots that are believed.
    """
    chain = roots.signing.chain
    named = {
        "root" if link == chain[-1] else f"above-{place}" if place else "signer": link
        for place, link in enumerate(chain)
    }
    ends = {place: int(link.not_valid_after_utc.timestamp()) for place, link in named.items()}
    return {**ends, "believed": min(int(root.not_valid_after_utc.timestamp()) for root in roots.trusted)}
