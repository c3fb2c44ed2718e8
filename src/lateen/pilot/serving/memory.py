"""What tasting remembers across restarts of the control plane: contents that Envoy takes, and last good versions.

One file of the state folder, mode 0600, written a moment after something changed. It counts only for the Envoy and the
bootstrap that judged; a file that cannot be read is as none, and everything is tasted again. No secret is in it.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec
import structlog

from lateen import __version__
from lateen.errors import LateenError
from lateen.pilot.model.envoy_filters import PatchId
from lateen.pilot.serving.gate import Gate, Place
from lateen.pilot.taste.bootstrap import encode_bootstrap
from lateen.pilot.translate.patches.outcome import Mark, MarkedResource
from lateen.pilot.xds.source import Resource
from lateen.wire.envoy import find_envoy
from lateen.wire.files import write_atomically

__all__ = ["Memory", "judge_identity"]

SETTLE_SECONDS: Final = 0.5  # of changes, before they are written

log = structlog.get_logger(__name__)


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One last good version."""

    scope: str
    type_url: str
    name: str
    version: str
    body: bytes
    touched: tuple[tuple[str, str, int], ...] = ()  # the patches that act in it


class _File(msgspec.Struct, frozen=True, kw_only=True):
    judge: str
    good: list[str]  # versions
    last_good: list[_Kept]


def judge_identity() -> str:
    """Return what tells one judge from another: Envoy's binary, its bootstrap, and this version."""
    try:
        stat = find_envoy().stat()
    except (LateenError, OSError):
        return ""
    facts = f"{__version__} {stat.st_size} {stat.st_mtime_ns} ".encode() + encode_bootstrap("")
    return blake2b(facts, digest_size=16).hexdigest()


class Memory:
    """Loads a gate at the start, and saves it as it changes. Owned by the control plane's loop."""

    def __init__(self, path: Path, gate: Gate) -> None:
        self._path = path
        self._gate = gate
        self._judge = judge_identity()
        self._saved: tuple[int, int] = (0, 0)
        self._timer: asyncio.TimerHandle | None = None

    def load(self) -> None:
        """Take over what was known. Does not raise."""
        try:
            found = msgspec.msgpack.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError):
            return
        if found.judge != self._judge or not self._judge:
            return
        for version in found.good:
            self._gate.book.write(version, "")
        for kept in found.last_good:
            place = Place(kept.scope, kept.type_url, kept.name)
            self._gate.last_good[place] = _resource(kept)
        self._saved = self._state()

    def save_soon(self) -> None:
        """Write the file once changes have settled; nothing when there are none."""
        if self._timer is None and self._state() != self._saved:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._save_aside)

    def _save_aside(self) -> None:
        # Not on the loop: the disk may take its time to have it for good.
        self._timer = None
        content = self._content()
        if content is not None:
            asyncio.get_running_loop().run_in_executor(None, self._write, content)

    def save(self) -> None:
        """Write the file now. A disk that is full is told, and costs tasting again after a restart."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        content = self._content()
        if content is not None:
            self._write(content)

    def _content(self) -> bytes | None:
        """Return the file's content; None when nothing has changed."""
        state = self._state()
        if state == self._saved or not self._judge:
            return None
        self._saved = state
        kept = [_kept(place, one) for place, one in self._gate.last_good.items()]
        return msgspec.msgpack.encode(_File(judge=self._judge, good=self._gate.book.good(), last_good=kept))

    def _write(self, content: bytes) -> None:
        try:
            write_atomically(self._path, content)
        except OSError as error:
            log.error("tasted contents not saved", file=str(self._path), error=str(error))

    def _state(self) -> tuple[int, int]:
        return self._gate.book.writes, hash(tuple(self._gate.last_good.items()))


def _kept(place: Place, one: Resource) -> _Kept:
    touched = one.mark.touched if isinstance(one, MarkedResource) else ()
    return _Kept(
        scope=place.scope,
        type_url=place.type_url,
        name=place.name,
        version=one.version,
        body=one.body,
        touched=tuple((patch.namespace, patch.name, patch.index) for patch in touched),
    )


def _resource(kept: _Kept) -> Resource:
    if not kept.touched:
        return Resource(kept.name, kept.version, kept.body)
    mark = Mark(kept.name, tuple(PatchId(*patch) for patch in kept.touched))
    return MarkedResource(kept.name, kept.version, kept.body, mark)
