"""`lateen up --authority FILE`: which external authority signs, and how it is asked.

In:  the file. Out: `AuthorityConfig`, and the chosen authority's own parameters, decoded by its class.
Every fault is told with file, line and field, all at once, as for resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec

from lateen.api.base import EMPTY, Problem, Spec
from lateen.api.places import Lines, Place, nearest_line, path_text
from lateen.api.scalars import Duration
from lateen.api.shape import Faults, decode_struct
from lateen.api.suggest import listed, nearest
from lateen.api.yaml_source import parse_yaml
from lateen.citadel.external.interface import Context, ExternalAuthority, Profile
from lateen.citadel.external.plugins import Known, known_authorities
from lateen.errors import BadInput

__all__ = ["AuthorityConfig", "load_authority_config"]

MAX_FILE_BYTES: Final = 256 * 1024
# Agents give a call 10 s: a longer wait would end in their words, not in those of the authority.
LONGEST_LEAF_TIMEOUT: Final = timedelta(seconds=9)
LONGEST_TIMEOUT: Final = timedelta(minutes=5)
SHORTEST_INTERMEDIATE: Final = timedelta(minutes=1)


class AuthorityFile(Spec, frozen=True, kw_only=True):
    """The file as it is written."""

    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]  # vault, kubernetes, or the name of an entry point
    mode: Literal["intermediate", "leaf"] | None = None  # None: intermediate, where the authority can
    roots: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] | None = None  # file of trust anchors, PEM
    intermediate_lifetime: Duration = timedelta(days=30)
    timeout: Duration = timedelta(seconds=8)  # of one order
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16  # orders at once
    parameters: Mapping[str, Any] = EMPTY  # of the authority's class


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityConfig:
    """What was chosen. `make` builds the authority."""

    kind: str
    profile: Profile  # what is ordered
    roots_file: Path | None
    intermediate_lifetime: timedelta
    context: Context
    authority: type[ExternalAuthority]
    parameters: Spec

    def make(self) -> ExternalAuthority:
        """Return the authority. Raises `BadInput` when its class cannot be made with what it was given."""
        try:
            return self.authority(self.parameters, self.context)
        except BadInput:
            raise
        except Exception as error:  # somebody else's class
            raise BadInput(f"authority {self.kind!r} cannot be made: {type(error).__name__}: {error}") from error


def load_authority_config(path: Path, trust_domain: str, known: Mapping[str, Known] | None = None) -> AuthorityConfig:
    """Return what the file says. Raises `BadInput` with a line for each fault: `file:line: field: message`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"{path}: more than {MAX_FILE_BYTES} bytes, which no configuration of an authority has")
    documents, faults = parse_yaml(data)
    if faults:
        _refuse(Problem(str(path), fault.line, fault.path, fault.message) for fault in faults)
    if len(documents) != 1:
        raise BadInput(f"{path}:1: one YAML document wanted, got {len(documents)}")
    document = documents[0]
    reader = _Reader(str(path), Lines(document.tree), document.line)
    file_spec = reader.decode(AuthorityFile, document.value, None)
    return _chosen(reader, file_spec, path.parent, trust_domain, known_authorities() if known is None else known)


def _chosen(
    reader: _Reader, spec: AuthorityFile, folder: Path, trust_domain: str, known: Mapping[str, Known]
) -> AuthorityConfig:
    entry = known.get(spec.kind)
    if entry is None:
        near = nearest(spec.kind, known)
        hint = f"did you mean {near}?" if near is not None else f"wanted {listed(sorted(known))}"
        reader.refuse("kind", f'"{spec.kind}" is no authority that is built in or installed, {hint}')
    try:
        authority = entry.load()
    except BadInput as error:
        reader.refuse("kind", str(error))
    profile: Profile = spec.mode or ("intermediate" if "intermediate" in authority.profiles else "leaf")
    if profile not in authority.profiles:
        reader.refuse("mode", f"{spec.kind} cannot do {profile}, only {listed(sorted(authority.profiles))}")
    longest = LONGEST_LEAF_TIMEOUT if profile == "leaf" else LONGEST_TIMEOUT
    if spec.timeout > longest:
        reader.refuse("timeout", f"must be at most {longest.total_seconds():g}s in mode {profile}, got {spec.timeout}")
    if spec.intermediate_lifetime < SHORTEST_INTERMEDIATE:
        reader.refuse("intermediateLifetime", f"must be at least 1m, got {spec.intermediate_lifetime}")
    place: Place = (None, "parameters")
    parameters = reader.decode(authority.Parameters, spec.parameters, place)
    found = list(authority.check(parameters, profile))
    if found:
        reader.refuse_all((f"parameters.{field}" if field else "parameters", message) for field, message in found)
    return AuthorityConfig(
        kind=spec.kind,
        profile=profile,
        roots_file=folder / spec.roots if spec.roots is not None else None,
        intermediate_lifetime=spec.intermediate_lifetime,
        context=Context(trust_domain=trust_domain, folder=folder, timeout=spec.timeout, concurrency=spec.concurrency),
        authority=authority,
        parameters=parameters,
    )


class _Reader:
    """Decodes and tells, knowing the lines."""

    def __init__(self, file: str, lines: Lines, line: int) -> None:
        self._file = file
        self._lines = lines
        self._line = line

    def decode(self, struct: type[Any], value: Any, place: Place) -> Any:
        faults: Faults = []
        decoded = decode_struct(struct, value, place, faults)
        if decoded is None:
            self.refuse_all((path_text(where), message) for where, message in faults)
        return decoded

    def refuse(self, field: str, message: str) -> NoReturn:
        self.refuse_all([(field, message)])

    def refuse_all(self, faults: Iterable[tuple[str, str]]) -> NoReturn:
        lines, line = self._lines, self._line
        _refuse(Problem(self._file, nearest_line(lines, field, line), field, text) for field, text in faults)


def _refuse(problems: Iterable[Problem]) -> NoReturn:
    raise BadInput("\n".join(str(problem) for problem in sorted(problems)))
