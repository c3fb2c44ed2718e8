"""One Prometheus text from many: what an application exposes, made fit to stand behind the mesh's own metrics.

In:  the application's answer, in Prometheus' text format or in OpenMetrics. Out: text of version 0.0.4, by family.
Rules: Prometheus "Exposition formats", OpenMetrics 1.0. Of a whole scrape Prometheus takes nothing when one line is
wrong, and a parser of its libraries nothing when a family comes twice: so an answer that is not understood is left out
as a whole, and a family that the mesh has already is left out alone. Exemplars are left out: text has none. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["ACCEPT", "Appended", "append", "families_of", "is_openmetrics", "is_text"]

# What an application is asked for: text where it can choose.
ACCEPT: Final = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"

# Possessive throughout: a line of blanks must not be tried in every way there is.
_NAME: Final = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL: Final = rb'[ \t]*+[a-zA-Z_][a-zA-Z0-9_]*+[ \t]*+=[ \t]*+"(?:[^"\\\n]|\\.)*+"[ \t]*+'
_SAMPLE: Final = re.compile(
    rb"(?P<name>%b)(?:[ \t]*+(?P<labels>\{(?:%b(?:,%b)*+,?)?[ \t]*+\}))?[ \t]++(?P<value>[^ \t#{}]++)"
    rb"(?:[ \t]++(?P<time>-?[0-9][0-9.eE+-]*+))?(?P<exemplar>[ \t]++#[ \t]*+\{.*)?" % (_NAME, _LABEL, _LABEL)
)
_COMMENT: Final = re.compile(rb"#[ \t]++(?P<what>TYPE|HELP|UNIT)[ \t]++(?P<name>%b)(?:[ \t]++(?P<text>.*))?" % _NAME)
_DECLARED: Final = re.compile(rb"^# TYPE ([^ ]+) ", re.MULTILINE)
_KINDS: Final = {  # of OpenMetrics, as text says them
    b"counter": b"counter", b"gauge": b"gauge", b"histogram": b"histogram", b"summary": b"summary",
    b"untyped": b"untyped", b"unknown": b"untyped", b"info": b"gauge", b"stateset": b"gauge",
    b"gaugehistogram": b"untyped",
}  # fmt: skip
_PARTS: Final = {  # endings of a family's samples, beside its own name
    b"histogram": (b"_bucket", b"_count", b"_sum"),
    b"summary": (b"_count", b"_sum"),
}


@dataclass(frozen=True, slots=True)
class Appended:
    """The whole text, and how many of the application's families were left out because the mesh has them."""

    text: bytes
    left_out: int


@dataclass(slots=True)
class _Family:
    name: bytes
    kind: bytes = b""
    help: bytes | None = None
    samples: list[bytes] = field(default_factory=list)


def is_openmetrics(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/openmetrics-text"


def is_text(content_type: str) -> bool:
    """Tell whether an answer is one of the two formats; an application that does not say is believed to speak text."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("", "text/plain", "application/openmetrics-text")


def families_of(text: bytes) -> frozenset[bytes]:
    """Return the families that the mesh's own text declares."""
    return frozenset(_DECLARED.findall(text))


def append(mesh: bytes, application: bytes, *, openmetrics: bool) -> Appended:
    """Return `mesh` and behind it what the application exposes. Raises `ValueError` naming the line that is wrong."""
    taken = families_of(mesh)
    taken_samples = {name + suffix for name in taken for suffix in (b"", b"_bucket", b"_count", b"_sum")}
    parts, left_out = [mesh if not mesh or mesh.endswith(b"\n") else mesh + b"\n"], 0
    for family in _parse(application, openmetrics=openmetrics):
        if family.name in taken_samples or any(family.name + end in taken for end in _PARTS.get(family.kind, ())):
            left_out += 1
            continue
        if family.help is not None:
            parts.append(b"# HELP %b %b\n" % (family.name, family.help))
        if family.kind:
            parts.append(b"# TYPE %b %b\n" % (family.name, family.kind))
        parts += family.samples
    return Appended(b"".join(parts), left_out)


class _Parser:
    """Sorts lines by family."""

    def __init__(self, *, openmetrics: bool) -> None:
        self.families: list[_Family] = []  # in the order in which they begin
        self._openmetrics = openmetrics
        self._declared: dict[bytes, _Family] = {}  # by the name in TYPE and HELP
        self._owners: dict[bytes, _Family] = {}  # by the name of a sample

    def comment(self, line: bytes) -> None:
        found = _COMMENT.fullmatch(line)
        if found is None or found["what"] == b"UNIT":
            return  # a comment like any other
        name, said = found["name"], (found["text"] or b"").strip()
        family = self._declared.get(name) or self._owners.get(name)
        if family is None:
            family = self._new(name)
        self._declared[name] = family
        if found["what"] == b"HELP":
            if family.help is None:
                # OpenMetrics escapes quotes as well.
                family.help = said.replace(b'\\"', b'"') if self._openmetrics else said
        elif not family.kind:  # said twice: the first word holds
            self._type(family, said.lower())

    def _type(self, family: _Family, kind: bytes) -> None:
        family.kind = _KINDS.get(kind, b"untyped")
        # There a family is called without what its sample ends in.
        ending = {b"counter": b"_total", b"info": b"_info"}.get(kind, b"") if self._openmetrics else b""
        if ending and not family.name.endswith(ending) and not family.samples:
            del self._owners[family.name]
            family.name += ending
            self._owners.setdefault(family.name, family)
        for part in _PARTS.get(family.kind, ()):
            self._owners.setdefault(family.name + part, family)

    def sample(self, line: bytes, number: int) -> None:
        """Take a sample. Raises `ValueError`."""
        found = _SAMPLE.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number}: a sample wanted, got {_shown(line)}")
        try:
            float(found["value"])
        except ValueError:
            raise ValueError(f"line {number}: a number wanted, got {_shown(found['value'])}") from None
        if found["exemplar"] and not self._openmetrics:
            raise ValueError(f"line {number}: an exemplar, which only OpenMetrics has")
        name = found["name"]
        owner = self._owners.get(name) or self._new(name)
        when = b"" if found["time"] is None else b" %d" % self._milliseconds(found["time"], number)
        owner.samples.append(b"%b%b %b%b\n" % (name, found["labels"] or b"", found["value"], when))

    def _new(self, name: bytes) -> _Family:
        family = _Family(name)
        self.families.append(family)
        self._owners[name] = family
        return family

    def _milliseconds(self, text: bytes, number: int) -> int:
        try:
            return round(float(text) * 1000) if self._openmetrics else int(text)
        except (ValueError, OverflowError):
            raise ValueError(f"line {number}: a time wanted, got {_shown(text)}") from None


def _parse(text: bytes, *, openmetrics: bool) -> Iterable[_Family]:
    """Return the families in the order in which they begin, the samples of each together. Raises `ValueError`."""
    parser = _Parser(openmetrics=openmetrics)
    ended = False
    for number, line in enumerate(text.split(b"\n"), start=1):
        line = line.strip(b" \t\r")
        if not line:
            continue
        if ended:
            raise ValueError(f"line {number}: nothing may come after # EOF, got {_shown(line)}")
        if openmetrics and line == b"# EOF":
            ended = True
        elif line.startswith(b"#"):
            parser.comment(line)
        else:
            parser.sample(line, number)
    if openmetrics and not ended:
        raise ValueError("OpenMetrics without # EOF: the answer was cut")
    return [family for family in parser.families if family.samples]


def _shown(text: bytes) -> str:
    return repr(text[:80].decode(errors="replace"))
