"""Adapters in files and in installed packages. Runs in a worker: what it loads is somebody's code.

In:  files as (path, text), entry points. Out: `Loaded` functions, and a `Fault` for what gives none.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, get_type_hints

import msgspec

from lateen.adapters.declare import MARK, Declared
from lateen.mixer.own.frames import Description, Fault, Parameter

__all__ = ["ENTRY_POINTS", "Loaded", "ParameterFault", "load_all", "parameters_of"]

ENTRY_POINTS: Final = "lateen.mixer.adapters"


class ParameterFault(Exception):
    """Parameters that an adapter does not take: the field below `params`, and why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """One adapter, ready to be called."""

    declared: Declared
    function: Callable[..., Any]
    params: Any  # type of the first argument
    description: Description

    def convert(self, written: Mapping[str, Any]) -> Any:
        """Return the parameters that were written, as the function wants them. Raises: ParameterFault."""
        if self.params is None:
            if written:
                raise ParameterFault(next(iter(written)), "is not known: the adapter takes no parameters")
            return None
        known = [one.name for one in self.description.parameters]
        for name in written:
            if known and name not in known:
                raise ParameterFault(name, f"is not known: the adapter takes {', '.join(known)}")
        try:
            return msgspec.convert(dict(written), self.params)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            message, _, place = str(error).partition(" - at `$")
            field = place.rstrip("`").lstrip(".")
            raise ParameterFault(field, message.replace("`", "")) from None


def load_all(files: Iterable[tuple[str, str]], *, with_entry_points: bool) -> tuple[list[Loaded], list[Fault]]:
    """Return the adapters; of two with one kind and name the first stands, and the other is a fault."""
    found: dict[Declared, Loaded] = {}
    faults: list[Fault] = []
    for source in (*(_File(path, text) for path, text in files), *(_points() if with_entry_points else ())):
        try:
            functions = list(source.functions())
        except BaseException as error:  # somebody's code: whatever it raises, the others are loaded
            if isinstance(error, KeyboardInterrupt):
                raise
            faults.append(source.fault(error))
            continue
        for function in functions:
            loaded = _loaded(function)
            if isinstance(loaded, Fault):
                faults.append(loaded)
            elif loaded.declared in found and found[loaded.declared].function is not function:
                first = found[loaded.declared].description
                where = loaded.description
                message = f"{where.kind} adapter {where.name} is in {first.file}:{first.line} already"
                faults.append(Fault(file=where.file, line=where.line, message=message))
            else:
                found[loaded.declared] = loaded
    return list(found.values()), faults


class _File:
    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text

    def functions(self) -> Iterator[Callable[..., Any]]:
        name = f"lateen_own_{abs(hash(self._path)):x}"
        module = types.ModuleType(name)
        module.__file__ = self._path
        sys.modules[name] = module  # dataclasses look their module up
        exec(compile(self._text, self._path, "exec"), module.__dict__)  # noqa: S102  # what this process is for
        yield from (
            one for one in vars(module).values() if hasattr(one, MARK) and getattr(one, "__module__", "") == name
        )

    def fault(self, error: BaseException) -> Fault:
        line = next((one.lineno for one in _frames(error) if one.filename == self._path), None)
        if isinstance(error, SyntaxError) and error.filename == self._path:
            line = error.lineno
        return Fault(file=self._path, line=line or 1, message=_words(error))


class _Point:
    def __init__(self, point: Any) -> None:
        self._point = point

    def functions(self) -> Iterator[Callable[..., Any]]:
        found = self._point.load()
        candidates = [found] if hasattr(found, MARK) else list(vars(found).values())
        yield from (one for one in candidates if hasattr(one, MARK))

    def fault(self, error: BaseException) -> Fault:
        frames = list(_frames(error))
        where = f"entry point {self._point.name} ({self._point.value})"
        return Fault(file=where, line=(frames[-1].lineno if frames else None) or 1, message=_words(error))


def _points() -> Iterator[_Point]:
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value)):
        yield _Point(point)


def _loaded(function: Callable[..., Any]) -> Loaded | Fault:
    declared: Declared = getattr(function, MARK)
    code = inspect.unwrap(function).__code__
    where = {"file": code.co_filename, "line": code.co_firstlineno}
    try:
        hints = get_type_hints(function)
        names = [
            one.name
            for one in inspect.signature(function).parameters.values()
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        if len(names) != 2:
            return Fault(
                **where, message=f"{function.__name__}({', '.join(names)}): two arguments wanted, params and values"
            )
        params = hints.get(names[0])
        if params is None and names[0] not in hints:
            return Fault(**where, message=f"{names[0]} has no type, a dataclass, a Struct or None is wanted")
        kind = None if params in (None, type(None)) else params
        parameters = tuple(parameters_of(kind))
    except Exception as error:
        return Fault(**where, message=_words(error))
    doc = (inspect.getdoc(function) or "").partition("\n")[0]
    described = Description(name=declared.name, kind=declared.kind, doc=doc, parameters=parameters, **where)
    return Loaded(declared, function, kind, described)


def parameters_of(params: Any) -> Iterator[Parameter]:
    """Yield what a rule may say. Raises: TypeError for a type that no parameters can be made of."""
    if params is None:
        return
    info = msgspec.inspect.type_info(params)
    if not hasattr(info, "fields"):
        if isinstance(info, msgspec.inspect.DictType):
            return
        raise TypeError(f"parameters cannot be made of {params!r}: a dataclass, a Struct or a dict is wanted")
    hints = get_type_hints(params)
    for one in info.fields:
        default: str | None = None
        if one.default is not msgspec.NODEFAULT:
            default = repr(one.default)
        elif one.default_factory is not msgspec.NODEFAULT:
            default = repr(one.default_factory())
        elif not one.required:
            default = "-"
        yield Parameter(name=one.encode_name, type=_shown(hints.get(one.name, Any)), default=default)


def _shown(hint: Any) -> str:
    return (
        hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint).replace("typing.", "")
    )


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    yield from traceback.extract_tb(error.__traceback__)


def _words(error: BaseException) -> str:
    text = str(error).partition("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
