"""Other trust domains that MeshConfig's `caCertificates` has this mesh believe: their bundles, fetched and kept.

In:  the MeshConfig in force; what the endpoints of others answer.
Out: roots and JWT keys by trust domain; problems, with the place in the file.
Rules: the SPIFFE Federation specification. An endpoint with a SPIFFE ID (https_spiffe) is verified by the bundle known
last, the first time by the roots in the configuration; any other (https_web) by the web's roots. What was fetched last
stays for `KEEP_SECONDS` while nothing newer can be had, over restarts too; then the trust domain is believed no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from cryptography import x509

from lateen.api.base import Object, Problem
from lateen.errors import BadInput, LateenError
from lateen.fetch import Fetcher, Limits
from lateen.wire.anchors import confine
from lateen.wire.files import write_atomically
from lateen.wire.jwk import VerifyingKey
from lateen.wire.spiffe_bundle import MAX_BUNDLE_BYTES, Bundle, parse_bundle, read_roots
from lateen.wire.svid import UNREADABLE
from lateen.wire.trust import MAX_ROOTS

__all__ = ["Federation", "Source", "endpoint_context"]

log = structlog.get_logger(__name__)

KEEP_SECONDS: Final = 3 * 24 * 3600.0  # a weekend, and a day to notice
REFRESH_SECONDS: Final = 300.0  # where a bundle does not say
LEAST_SECONDS, MOST_SECONDS = 1.0, 3600.0  # between two looks, whatever it says
RETRY_SECONDS: Final = 30.0  # at most, after a failure
MAX_SOURCES: Final = 64
LIMITS: Final = Limits(seconds=10.0, max_bytes=MAX_BUNDLE_BYTES, redirects=0)


@dataclass(frozen=True, slots=True)
class Source:
    """One bundle endpoint, as it is configured."""

    url: str
    trust_domains: tuple[str, ...]
    spiffe_id: str = ""  # "": https_web
    pem: str = ""

    @property
    def key(self) -> str:
        """A digest: what was fetched is kept for this configuration, and for no other."""
        return hashlib.sha256(repr((self.url, self.trust_domains, self.spiffe_id, self.pem)).encode()).hexdigest()


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    document: str
    fetched: float  # Unix seconds


@dataclass(slots=True)
class _State:
    place: str
    bundle: Bundle | None = None
    kept: _Kept | None = None
    error: str = ""
    failures: int = 0
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Federation:
    """Follows the endpoints. `configure` it with each MeshConfig; `stop` it."""

    def __init__(
        self,
        fetcher: Fetcher,
        file: Path,
        trust_domain: str,
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_change` is told when roots, keys or problems are others."""
        self._fetcher = fetcher
        self._file = file
        self._trust_domain = trust_domain
        self._on_change = on_change
        self._clock = clock
        self._states: dict[Source, _State] = {}
        self._aliases: tuple[str, ...] = ()
        self._given: dict[str, set[str]] = {}
        self._faults: tuple[tuple[str, str], ...] = ()
        self._obj: Object | None = None
        self._kept = self._load()

    def configure(self, obj: Object | None) -> None:
        """Follow what this MeshConfig names, and nothing else."""
        self._obj = obj
        spec = obj.spec if obj is not None else None
        self._aliases = tuple(getattr(spec, "trust_domain_aliases", None) or ())
        wanted: dict[Source, str] = {}
        faults: list[tuple[str, str]] = []
        self._given = {}
        for i, entry in enumerate(getattr(spec, "ca_certificates", None) or ()):
            place = f"spec.caCertificates[{i}]"
            if entry.pem is not None:
                try:
                    self._give(entry.trust_domains or (self._trust_domain,), read_roots(entry.pem))
                except BadInput as error:
                    faults.append((f"{place}.pem", str(error)))
            elif self._trust_domain in entry.trust_domains:
                faults.append((f"{place}.trustDomains", "the mesh's own roots are its authority's, and not fetched"))
            elif (entry.spiffe_bundle_url or "").startswith("https://") and entry.trust_domains:
                endpoint = entry.endpoint
                if len(wanted) >= MAX_SOURCES:
                    faults.append((place, f"is not fetched: {MAX_SOURCES} endpoints are followed at most"))
                    continue
                source = Source(
                    entry.spiffe_bundle_url,
                    tuple(sorted(entry.trust_domains)),
                    (endpoint.spiffe_id or "") if endpoint is not None else "",
                    (endpoint.pem or "") if endpoint is not None else "",
                )
                wanted[source] = place
        self._faults = tuple(faults)
        for source in [source for source in self._states if source not in wanted]:
            task = self._states.pop(source).task
            if task is not None:
                task.cancel()
        for source, place in wanted.items():
            state = self._states.get(source)
            if state is None:
                state = self._states[source] = self._restored(source, place)
                state.task = asyncio.create_task(self._follow(source, state), name=f"bundle of {source.url}")
            state.place = place
        self._on_change()

    def roots(self, own: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return all roots by trust domain. The own ones count for aliases, too, that have none of their own."""
        found = self._found()
        others = {domain: tuple(sorted(roots)) for domain, roots in found.items() if len(roots) <= MAX_ROOTS}
        named = {domain for source in self._states for domain in source.trust_domains} | set(found)
        mine = tuple(dict.fromkeys((*own, *others.pop(self._trust_domain, ()))))
        aliases = {alias: mine for alias in self._aliases if alias not in named}
        return {**others, **aliases, self._trust_domain: mine}

    def jwt_keys(self) -> dict[str, Mapping[str, VerifyingKey]]:
        """Return the JWT keys of other trust domains."""
        found: dict[str, Mapping[str, VerifyingKey]] = {}
        for source, bundle in self._current():
            for domain in source.trust_domains:
                found[domain] = {**found.get(domain, {}), **bundle.jwt_keys}
        return found

    def problems(self) -> list[Problem]:
        """Return what is wrong with it now."""
        if self._obj is None:
            return []
        found = [self._obj.problem(place, text) for place, text in self._faults]
        for domain, roots in sorted(self._found().items()):
            if len(roots) > MAX_ROOTS and domain != self._trust_domain:
                text = f"nobody of {domain!r} is believed: {len(roots)} roots, at most {MAX_ROOTS} wanted"
                found.append(self._obj.problem("spec.caCertificates", text))
        for state in self._states.values():
            if state.error:
                found.append(self._obj.problem(f"{state.place}.spiffeBundleUrl", self._told(state), "warning"))
        return found

    def _found(self) -> dict[str, set[str]]:
        """Return what is given and fetched, by trust domain, however much it is."""
        found: dict[str, set[str]] = {domain: set(roots) for domain, roots in self._given.items()}
        for source, bundle in self._current():
            for domain in source.trust_domains:
                found.setdefault(domain, set()).update(bundle.roots)
        return found

    async def stop(self) -> None:
        tasks = [state.task for state in self._states.values() if state.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ fetching

    async def _follow(self, source: Source, state: _State) -> None:
        while True:
            before = (state.bundle, state.error, self._holds(state))
            try:
                await self._fetch(source, state)
                state.error, state.failures = "", 0
            except LateenError as error:
                state.error = str(error)
                state.failures += 1
            except Exception as error:  # one endpoint must not end the following of others
                state.error = f"{type(error).__name__}: {error}"
                state.failures += 1
            if (state.bundle, state.error, self._holds(state)) != before:
                log.info("bundle of another trust domain", url=source.url, error=state.error)
                self._on_change()
            await asyncio.sleep(self._pause(state))

    def _pause(self, state: _State) -> float:
        said = state.bundle.refresh_seconds if state.bundle is not None else None
        pause = min(max(float(said or REFRESH_SECONDS), LEAST_SECONDS), MOST_SECONDS)
        return min(pause, RETRY_SECONDS, float(2 ** min(state.failures, 5))) if state.failures else pause

    async def _fetch(self, source: Source, state: _State) -> None:
        tls: ssl.SSLContext | None = None
        if source.spiffe_id:
            known = state.bundle.roots if state.bundle is not None and state.bundle.roots else read_roots(source.pem)
            tls = endpoint_context(known, source.spiffe_id)
        elif source.pem:
            tls = _web_context(read_roots(source.pem))
        answer = await self._fetcher.get(source.url, LIMITS, tls=tls)
        bundle = parse_bundle(answer.body)
        if len(bundle.roots) > MAX_ROOTS:
            raise BadInput(f"bundle of {len(bundle.roots)} roots, at most {MAX_ROOTS} wanted")
        for domain in source.trust_domains:
            for root in bundle.roots:
                confine(root, domain)  # what cannot be confined is not believed at all
        old = state.bundle.sequence if state.bundle is not None else None
        if old is not None and bundle.sequence is not None and bundle.sequence < old:
            raise BadInput(f"bundle number {bundle.sequence} is older than the known {old}")
        state.bundle = bundle
        state.kept = self._kept[source.key] = _Kept(document=answer.body.decode(), fetched=self._clock())
        self._save()

    def _holds(self, state: _State) -> bool:
        return state.kept is not None and self._clock() < state.kept.fetched + KEEP_SECONDS

    def _current(self) -> list[tuple[Source, Bundle]]:
        states = self._states.items()
        return [(src, state.bundle) for src, state in states if state.bundle is not None and self._holds(state)]

    def _told(self, state: _State) -> str:
        if not self._holds(state) or state.kept is None:
            return f"{state.error}; nobody of these trust domains is believed"
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.kept.fetched + KEEP_SECONDS))
        return f"{state.error}; what was fetched last is believed until {until}"

    # ------------------------------------------------------------ keeping

    def _give(self, domains: Iterable[str], roots: Iterable[str]) -> None:
        pems = tuple(roots)
        for domain in domains:
            if domain != self._trust_domain:
                for pem in pems:
                    confine(pem, domain)
        for domain in domains:
            self._given.setdefault(domain, set()).update(pems)

    def _restored(self, source: Source, place: str) -> _State:
        state = _State(place)
        kept = self._kept.get(source.key)
        if kept is not None:
            with contextlib.suppress(BadInput):
                state.bundle, state.kept = parse_bundle(kept.document.encode()), kept
        return state

    def _load(self) -> dict[str, _Kept]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, _Kept])
        except (OSError, msgspec.DecodeError):
            return {}

    def _save(self) -> None:
        wanted = {source.key for source in self._states}
        self._kept = {key: kept for key, kept in self._kept.items() if key in wanted}
        try:
            write_atomically(self._file, msgspec.json.encode(self._kept))
        except OSError as error:
            log.error("bundles of other trust domains not kept", file=str(self._file), reason=str(error))


def endpoint_context(roots: Iterable[str], spiffe_id: str) -> ssl.SSLContext:
    """Return a context for a client whose server must show an SVID of `spiffe_id`, under one of `roots` (PEM)."""
    context = _web_context(roots)
    context.check_hostname = False  # the identity takes the place of the name

    class Checked(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            problem = _identity_problem(self.getpeercert(binary_form=True), spiffe_id)
            if problem:
                error: Any = ssl.SSLCertVerificationError(problem)
                error.verify_message = problem
                raise error

    context.sslobject_class = Checked
    return context


def _web_context(roots: Iterable[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata="".join(roots))
    return context


def _identity_problem(certificate: bytes | None, spiffe_id: str) -> str:
    try:
        sans = x509.load_der_x509_certificate(certificate or b"").extensions
        names = sans.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except UNREADABLE:
        uris = []
    return "" if uris == [spiffe_id] else f"an SVID of {spiffe_id} wanted, got {uris}"
