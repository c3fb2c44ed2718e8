"""Fetches the keys of issuers, keeps them, and tells when they are others. Thin: `jwks_book.py` decides.

Nothing waits for a fetch: what proxies are served meanwhile takes no token of that issuer. Keys that came are written
to a file, so that a restart while an issuer is away serves what was known before, for as long as it would have been
anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog

from lateen.api.base import Object, Problem, ResourceKey
from lateen.errors import BadInput
from lateen.fetch import Fetcher, FetchError, Limits
from lateen.pilot.model.jwks import JwksSource, KeySet, discovered_uri, parse_key_set
from lateen.pilot.model.request_auth import JwksWant
from lateen.pilot.sources.jwks_book import Book, Saved, State
from lateen.wire.files import write_atomically

__all__ = ["MAX_FILE_BYTES", "KeyKeeper"]

log = structlog.get_logger(__name__)

AT_ONCE: Final = 64  # fetches
OF_ONE_NAMESPACE: Final = 4  # of them: who names many slow places waits for himself
BODY_BYTES: Final = 1024 * 1024
MAX_TIMEOUT: Final = timedelta(seconds=60)
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
LOOK_SECONDS: Final = 60.0  # at the clock, at least: it may be set, or the machine asleep


class KeyKeeper:
    """All issuers' keys of one control plane. Give it what rules want, run it, and read what stands."""

    def __init__(
        self,
        fetcher: Fetcher,
        book: Book,
        *,
        file: Path | None,
        clock: Callable[[], float],
        on_keys: Callable[[Mapping[JwksSource, str]], None],
        on_notes: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock` gives seconds of the wall clock. `on_keys` gets keys that are others now ("": none are had).

        `on_notes` is called when what `problems` tells may be something else.
        """
        self.outcomes: Counter[str] = Counter()
        self._fetcher = fetcher
        self._book = book
        self._file = file
        self._clock = clock
        self._on_keys = on_keys
        self._on_notes = on_notes
        self._wants: Mapping[JwksSource, JwksWant] = {}
        self._woken = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._turns: dict[str, asyncio.Semaphore] = {}  # by namespace of the first rule that names a place
        self._loaded = False
        self._dirty = False  # the file does not hold what the book does

    def want(self, wants: Mapping[JwksSource, JwksWant]) -> None:
        """Take what rules want now. Keys that are known already are told before this returns."""
        if not self._loaded:
            self._loaded = True
            self._book.remember(self._load(), self._clock())
        self._wants = wants
        self._tell(self._book.want(wants, self._clock()))
        self._woken.set()

    def wake(self) -> None:
        """Look at the clock now."""
        self._woken.set()

    async def run(self) -> None:
        """Fetch what is due, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._woken.clear()
                now = self._clock()
                expired = self._book.expire(now)
                self._tell(expired)
                if expired:
                    self._on_notes()
                for source in self._book.due(now):
                    tasks.create_task(self._fetch(source), name=f"keys of {source.shown}")
                self._save()
                wake_at = self._book.wake_at()
                wait = LOOK_SECONDS if wake_at is None else min(max(wake_at - self._clock(), 0.0), LOOK_SECONDS)
                # Not `wait_for`: in Python 3.11 it may swallow a cancellation.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._woken.wait()

    def problems(self, object_of: Callable[[ResourceKey], Object | None]) -> Iterator[Problem]:
        """Yield what is wrong with keys, at each rule that wants them."""
        for source, note in self._book.notes():
            want = self._wants.get(source)
            for key, path in want.places if want is not None else ():
                obj = object_of(key)
                if obj is not None:
                    yield obj.problem(path, note.message, note.level)

    def states(self) -> Mapping[JwksSource, State]:
        """Return how it stands with each source."""
        return self._book.states()

    async def _fetch(self, source: JwksSource) -> None:
        told = self._book.notes_of(source)
        want = self._wants.get(source)
        namespace = want.places[0][0].namespace if want is not None else ""
        turn = self._turns.setdefault(namespace, asyncio.Semaphore(OF_ONE_NAMESPACE))
        async with turn, self._slots:
            want = self._wants.get(source)
            seconds = min(want.timeout, MAX_TIMEOUT).total_seconds() if want is not None else 1.0
            try:
                found = await self._ask(source, Limits(seconds=seconds, max_bytes=BODY_BYTES))
            except FetchError as error:
                self._failed(source, error.reason, str(error))
            except BadInput as error:
                self._failed(source, "unusable", f"{source.shown}: {error}")
            except Exception:  # a fault in reading one issuer's answer must not end all the others' keys
                log.exception("fetching keys failed", source=source.shown)
                self._failed(source, "fault", f"{source.shown}: a fault of the control plane, see its log")
            else:
                self._succeeded(source, found)
        self._woken.set()
        if self._book.notes_of(source) != told:
            self._on_notes()

    async def _ask(self, source: JwksSource, limits: Limits) -> KeySet:
        url = source.first_url
        try:
            async with asyncio.timeout(limits.seconds):
                if source.kind == "issuer":
                    document = await self._fetcher.get(url, limits)
                    url = discovered_uri(document.body, url)
                return parse_key_set((await self._fetcher.get(url, limits)).body)
        except TimeoutError:
            raise FetchError("timeout", f"{source.shown}: nothing whole within {limits.seconds:g} s") from None

    def _succeeded(self, source: JwksSource, found: KeySet) -> None:
        self.outcomes["ok"] += 1
        changed = self._book.succeeded(source, found, self._clock())
        if changed:
            log.info("keys of an issuer are others now", source=source.shown, any=bool(found.text))
        self._tell(changed)
        self._dirty = True

    def _failed(self, source: JwksSource, outcome: str, error: str) -> None:
        self.outcomes[outcome] += 1
        self._book.failed(source, error, self._clock())

    def _tell(self, changed: set[JwksSource]) -> None:
        if changed:
            self._on_keys(self._book.keys(changed))

    # ---- the file

    def _load(self) -> list[Saved]:
        if self._file is None:
            return []
        try:
            with self._file.open("rb") as stream:
                return msgspec.json.decode(stream.read(MAX_FILE_BYTES), type=list[Saved])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("kept keys of issuers cannot be read; they are fetched", file=str(self._file), error=str(error))
            return []

    def _save(self) -> None:
        if self._file is None or not self._dirty:
            return
        self._dirty = False
        try:
            write_atomically(self._file, msgspec.json.encode(self._book.saved()))
        except OSError as error:
            # Proxies have them all the same; only a restart would have to fetch them first.
            log.error("keys of issuers not saved", file=str(self._file), error=str(error))
