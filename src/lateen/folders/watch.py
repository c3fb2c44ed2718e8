"""Watch a folder of YAML and hand over what changed in it. I/O only; `folder.py` decides.

inotify wakes the reader; a look at every file's size and time each `RESCAN_SECONDS` finds what an event missed
(network file systems, an overflowing queue).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import structlog
import watchfiles

from lateen.api.decode import MAX_FILE_BYTES

__all__ = ["Snapshot", "read_changes", "scan", "watch_folder"]

RESCAN_SECONDS = 2.0
SETTLE_MILLISECONDS = 10  # editors write in bursts: a temporary file, a rename, a touch
SUFFIXES = (".yaml", ".yml", ".json")

log = structlog.get_logger(__name__)

Stamp = tuple[int, int, int]  # inode, mtime in ns, size in bytes
Snapshot = dict[str, Stamp]


def scan(folder: Path) -> Snapshot:
    """Return the stamp of each YAML file below `folder`, by path. Hidden files and folders are passed over.

    Raises `OSError` when the folder itself cannot be read.
    """
    found: Snapshot = {}
    os.scandir(folder).close()  # os.walk would keep silent about a folder that is gone
    for root, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith(".") or not name.endswith(SUFFIXES):
                continue
            path = os.path.join(root, name)
            try:
                stat = os.stat(path)
            except OSError:
                stat = os.lstat(path) if os.path.lexists(path) else None  # type: ignore[assignment]  # a dangling link
            if stat is not None:
                found[path] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


def read_changes(before: Snapshot, now: Snapshot) -> dict[str, bytes | OSError | None]:
    """Read the files whose stamp differs; None for those that are gone.

    At most one byte more than the decoder takes is read of each: it is refused for its size without being held.
    """
    changed: dict[str, bytes | OSError | None] = dict.fromkeys(before.keys() - now.keys())
    for path, stamp in now.items():
        if before.get(path) == stamp:
            continue
        try:
            with open(path, "rb") as file:
                changed[path] = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            changed[path] = error
    return changed


async def watch_folder(
    folder: Path, seen: Snapshot, on_missing: Callable[[OSError | None], None]
) -> AsyncIterator[dict[str, bytes | OSError | None]]:
    """Yield what changed since `seen`, until cancelled. `on_missing` is told when the folder itself goes or comes back.

    A folder that cannot be read changes nothing: its last state stays in force.
    """
    missing = False
    wakeups = _wakeups(folder)
    try:
        async for _ in wakeups:
            try:
                now = await asyncio.to_thread(scan, folder)
            except OSError as error:
                if not missing:
                    log.error("config folder cannot be read", folder=str(folder), error=str(error))
                missing = True
                on_missing(error)
                continue
            if missing:
                missing = False
                on_missing(None)
            changes = await asyncio.to_thread(read_changes, seen, now)
            seen = now
            if changes:
                yield changes
    finally:
        await wakeups.aclose()


async def _wakeups(folder: Path) -> AsyncGenerator[None, None]:
    """Yield when something may have changed: on inotify's word, and every `RESCAN_SECONDS`."""
    woken = asyncio.Event()
    stop = asyncio.Event()

    async def listen() -> None:
        while True:
            try:
                async for _ in watchfiles.awatch(
                    folder,
                    step=SETTLE_MILLISECONDS,
                    debounce=SETTLE_MILLISECONDS * 5,
                    stop_event=stop,
                    watch_filter=None,
                    yield_on_timeout=False,
                ):
                    woken.set()
                return
            except FileNotFoundError:
                # The folder is gone; the rescan tells, and inotify is asked again when it may be back.
                await asyncio.sleep(RESCAN_SECONDS)

    listener = asyncio.create_task(listen(), name="inotify")
    try:
        while True:
            try:
                async with asyncio.timeout(RESCAN_SECONDS):
                    await woken.wait()
            except TimeoutError:
                pass  # the rescan is due
            woken.clear()
            yield None
    finally:
        stop.set()
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
