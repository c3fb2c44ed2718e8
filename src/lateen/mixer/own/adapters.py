"""Adapters of one's own, as rules use them: what there is, with which parameters, by which processes.

In:  a folder, installed packages; what rules bind; questions. Out: verdicts, and what is wrong.
Rules: docs/design/0020-own-adapters.md. Files that change are loaded by new processes first. Those take over when all
that worked before works there; a file that does not load stays as it was, and is told. Nothing that runs is broken off:
the processes before answer what they were asked, and end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from lateen.api.base import Problem
from lateen.mixer.adapter import AdapterError, Verdict, fault_of
from lateen.mixer.own.binding import Binding
from lateen.mixer.own.crew import Worker, WorkerGone
from lateen.mixer.own.folder import read_folder
from lateen.mixer.own.frames import Answer, Ask, Bind, Bound, Description, Failure, Fault, Hello, Tell

__all__ = ["OwnAdapters"]

WORKERS: Final = 2
MEMORY: Final = 1 << 30  # bytes of address space of each
LOOK_SECONDS: Final = 0.5  # how often the folder is looked at
FLUSH_SECONDS: Final = 0.2
MOST_ROWS: Final = 10_000  # that wait for one report adapter
BATCH: Final = 512
REPORT_SECONDS: Final = 5.0  # that one batch may take
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # before a worker is started again
RETIRING_LOOKS, RETIRING_SECONDS = 100, 0.1  # that one whose place was taken may go on with what it was asked

log = structlog.get_logger(__name__)


class OwnAdapters:
    """Use `run`, and `close` at the end. `bind` and `keep` at any time."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        workers: int = WORKERS,
        memory: int = MEMORY,
        on_load: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_load` is called whenever other code has taken over."""
        self._on_load = on_load
        self.adapters: tuple[Description, ...] = ()
        self.calls: Counter[tuple[str, str, str]] = Counter()  # (kind, adapter, result)
        self.starts = 0
        self.ends = 0  # of workers that nobody wanted to end
        self.loads = 0  # of everything, by new processes
        self._folder = folder
        self._count = workers
        self._memory = memory
        self._bindings: dict[tuple[str, str, bytes], Binding] = {}
        self._numbers = 0
        self._crew: list[Worker] = []
        self._workers: set[Worker] = set()  # all that have not ended: of the crew, and of those before
        self._ready = asyncio.Event()
        self._needed = asyncio.Event()
        self._good: dict[str, str] = {}
        self._faults: tuple[Fault, ...] = ()
        self._folder_fault = ""
        self._why = ""  # there are no workers
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- what rules need

    def bind(self, kind: str, name: str, params: Mapping[str, Any]) -> Binding:
        """Return the adapter with these parameters; whether they are right is known a moment later."""
        key = (kind, name, msgspec.msgpack.encode(params, enc_hook=str, order="deterministic"))
        found = self._bindings.get(key)
        if found is None:
            self._numbers += 1
            bind = Bind(number=self._numbers, kind=kind, adapter=name, params=dict(params))
            found = self._bindings[key] = Binding(bind)
            self._needed.set()
            for worker in self._crew:
                self._later(self._bind(worker, found))
        return found

    def keep(self, used: list[Binding]) -> None:
        """Forget what no rule binds any more."""
        numbers = {binding.message.number for binding in used}
        self._bindings = {key: one for key, one in self._bindings.items() if one.message.number in numbers}

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with files and packages."""
        if self._folder_fault:
            yield Problem(str(self._folder), 1, "", self._folder_fault)
        for fault in self._faults:
            yield Problem(fault.file, fault.line, "", f"gives no adapter: {fault.message}")
        if self._why and self._bindings:
            yield Problem(str(self._folder or ""), 1, "", f"adapters do not run: {self._why}", "warning")

    async def ask(self, binding: Binding, values: dict[str, Any], seconds: float) -> Verdict:
        """Return what the adapter decides. Raises: AdapterError."""
        counted = ("check", binding.name)
        try:
            found = await self._reply(
                binding,
                lambda number: Ask(number=number, binding=binding.message.number, values=values, seconds=seconds),
            )
        except asyncio.CancelledError:
            self.calls[(*counted, "timeout")] += 1
            raise
        if isinstance(found, Failure):
            self.calls[(*counted, found.how)] += 1
            raise AdapterError(f"adapter {binding.name}: {found.message}")
        verdict = Verdict(
            allowed=found.allowed,
            status=found.status,
            body=found.body,
            headers=found.headers,
            request_headers=found.request_headers,
            ttl=found.ttl,
        )
        fault = fault_of(verdict)
        if fault:
            self.calls[(*counted, "wrong")] += 1
            raise AdapterError(f"adapter {binding.name}: {fault}")
        self.calls[(*counted, "allowed" if verdict.allowed else "denied")] += 1
        return verdict

    def put(self, binding: Binding, row: dict[str, Any]) -> bool:
        """Have a report adapter told a row; False: too many wait already."""
        if len(binding.rows) >= MOST_ROWS:
            return False
        binding.rows.append(row)
        return True

    async def _reply(self, binding: Binding, make: Any) -> Answer | Failure:
        for _ in range(2):
            await self._ready.wait()
            if binding.fault:
                return Failure(number=0, how="error", message=binding.fault)
            worker = min((one for one in self._crew if not one.gone.is_set()), key=lambda one: one.busy, default=None)
            if worker is None:
                return Failure(number=0, how="error", message=self._why or "no worker runs")
            self._numbers += 1
            try:
                return await worker.ask(make(self._numbers))
            except WorkerGone as gone:
                why = str(gone)
            except ValueError as error:
                return Failure(number=0, how="error", message=f"what it is told is too much: {error}")
        return Failure(number=0, how="error", message=f"its worker {why}")

    # ---- processes

    async def run(self) -> None:
        """Have workers while a rule binds an adapter, follow the folder, pass rows on; until cancelled."""
        await self._needed.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._flush())

    async def close(self) -> None:
        await self._flush_once()
        for task in list(self._tasks):
            task.cancel()
        self._crew = []
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(worker.end() for worker in self._workers))

    async def load(self) -> None:
        """Load everything now, by new processes: for who only wants to know what there is."""
        await self._renew(self._read_folder())

    async def _follow(self) -> None:
        seen: dict[str, str] | None = None
        pause = FIRST_PAUSE
        while True:
            files = self._read_folder()
            if files != seen or not self._crew:
                seen = files
                await self._renew(files)
            if self._crew:
                pause = FIRST_PAUSE
                await asyncio.sleep(LOOK_SECONDS)
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _read_folder(self) -> dict[str, str]:
        self._folder_fault = ""
        if self._folder is None:
            return {}
        try:
            return read_folder(self._folder)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._folder_fault = f"adapters cannot be read: {reason}; what was read last stays"
            return dict(self._good)

    async def _renew(self, files: Mapping[str, str]) -> None:
        """Have the crew run these files; where one does not load, the text of it that did."""
        wanted = dict(files)
        told: tuple[Fault, ...] = ()
        while True:  # each file is taken back to its good text once at most
            try:
                crew, hello = await self._start(wanted)
            except (WorkerGone, OSError) as error:
                self._why = str(error)
                log.error("adapters not loaded", reason=self._why)
                if not self._crew:
                    self._ready.set()
                return
            self.loads += 1
            bad = {fault.file for fault in hello.faults} & wanted.keys()
            better = {path: self._good[path] for path in bad if self._good.get(path, wanted[path]) != wanted[path]}
            if not better:
                break
            told += tuple(fault for fault in hello.faults if fault.file in better)
            await asyncio.gather(*map(self._end, crew))
            wanted |= better
        self._good = {path: text for path, text in wanted.items() if path not in bad}
        self._faults = (*hello.faults, *told)
        self.adapters = hello.adapters
        for fault in self._faults:
            log.error("no adapter", file=fault.file, line=fault.line, reason=fault.message)
        log.info("adapters loaded", names=[one.name for one in hello.adapters])
        before, self._crew = self._crew, crew
        self._why = ""
        self._ready.set()
        self._on_load()
        for worker in crew:
            self._later(self._keep(worker, wanted))
        for worker in before:
            self._later(self._retire(worker))

    async def _start(self, files: Mapping[str, str]) -> tuple[list[Worker], Hello]:
        """Return new workers, all bindings made. Raises: WorkerGone, OSError."""
        crew = [self._worker() for _ in range(self._count)]
        try:
            hellos = await _all(worker.start(files, entry_points=True) for worker in crew)
            self.starts += len(crew)
            for binding in list(self._bindings.values()):
                await asyncio.gather(*(self._bind(worker, binding) for worker in crew))
        except (WorkerGone, OSError):
            for worker in crew:
                worker.kill("another did not start")
                await self._end(worker)
            raise
        return crew, hellos[0]

    def _worker(self) -> Worker:
        made = Worker(self._memory)
        self._workers.add(made)
        return made

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._workers.discard(worker)

    async def _bind(self, worker: Worker, binding: Binding) -> None:
        found: Bound = await worker.bind(binding.message)
        if found.fault and found.fault != binding.fault:
            log.error("adapter cannot be asked", adapter=binding.name, parameter=found.field, reason=found.fault)
        binding.fault, binding.place = found.fault, found.field

    async def _keep(self, worker: Worker, files: Mapping[str, str]) -> None:
        """Start another in the place of a worker that ends though it is wanted."""
        pause = FIRST_PAUSE
        while True:
            await worker.gone.wait()
            if worker not in self._crew:
                return
            self.ends += 1
            log.error("worker of adapters ended", pid=worker.pid, reason=worker.why)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            await self._end(worker)
            fresh = self._worker()
            try:
                await fresh.start(files, entry_points=True)
                for binding in list(self._bindings.values()):
                    await self._bind(fresh, binding)
            except (WorkerGone, OSError) as error:
                self._why = str(error)
                fresh.gone.set()
            else:
                self._why = ""
            self.starts += 1
            if worker not in self._crew:  # everything was loaded anew meanwhile
                await self._end(fresh)
                return
            self._crew[self._crew.index(worker)] = fresh
            worker = fresh

    async def _retire(self, worker: Worker) -> None:
        """End a worker once it has answered what it was asked."""
        for _ in range(RETIRING_LOOKS):
            if not worker.busy:
                break
            await asyncio.sleep(RETIRING_SECONDS)
        await self._end(worker)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._flush_once()

    async def _flush_once(self) -> None:
        for binding in list(self._bindings.values()):
            while binding.rows and self._crew:
                rows = [binding.rows.popleft() for _ in range(min(BATCH, len(binding.rows)))]
                await self._tell(binding, rows)

    async def _tell(self, binding: Binding, rows: list[dict[str, Any]]) -> None:
        counted = ("report", binding.name)
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                found = await self._reply(
                    binding,
                    lambda number: Tell(
                        number=number, binding=binding.message.number, rows=rows, seconds=REPORT_SECONDS
                    ),
                )
        except TimeoutError:
            found = Failure(number=0, how="timeout", message=f"took longer than {REPORT_SECONDS:g} s")
        result = found.how if isinstance(found, Failure) else "taken"
        self.calls[(*counted, result)] += len(rows)
        if isinstance(found, Failure):
            log.warning("report adapter failed", adapter=binding.name, rows=len(rows), reason=found.message)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A worker that is gone meanwhile has told so elsewhere.
        if error is not None and not isinstance(error, WorkerGone):
            log.error("work on adapters ended", reason=repr(error))


async def _all(starts: Iterable[Awaitable[Hello]]) -> list[Hello]:
    """Return the results, or raise the first error, once all are over: what still starts could not be ended yet."""
    hellos: list[Hello] = []
    for one in await asyncio.gather(*starts, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one
        hellos.append(one)
    return hellos
