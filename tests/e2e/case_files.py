"""Traffic cases as values: read strictly, and judged. The form is told in tests/cases/README.md."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml
from tests.e2e.case_tokens import Token

__all__ = ["Case", "Request", "faults_of", "files", "load", "question"]

FOLDER = Path(__file__).parents[1] / "cases"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A typo in a case is an error, not a check that never fails."""


class Seen(_Strict, frozen=True, kw_only=True):
    method: str | None = None
    path: str | None = None
    body: Any = None
    headers: dict[str, Any] = {}


class Expect(_Strict, frozen=True, kw_only=True):
    status: int | list[int] | None = None
    service: str | None = None
    version: str | None = None
    port: int | None = None
    shares: dict[str, tuple[float, float]] | None = None
    seen: Seen | None = None
    headers: dict[str, Any] = {}
    body: Any = None
    seconds: tuple[float, float] | None = None
    line: Any = None
    addresses: list[str] | str | None = None
    copies: dict[str, Seen | str] = {}
    attempts: int | None = None


class Request(_Strict, frozen=True, kw_only=True):
    send: str
    origin: str = msgspec.field(name="from", default="client")
    connect: str = ""
    headers: dict[str, str] = {}
    token: Token | None = None
    body: str = ""
    times: int = 1
    expect: Expect


class Case(_Strict, frozen=True, kw_only=True):
    case: str
    requests: list[Request] = []
    status: list[str] = []
    allow: list[str] = []
    config: str = ""


def files() -> list[Path]:
    """Return every case, by name."""
    return sorted(FOLDER.rglob("*.yaml"))


def load(path: Path, variables: dict[str, str]) -> Case:
    """Return the case in a file with `${NAME}` filled in. Raises `msgspec.ValidationError` for what is no case."""
    text = path.read_text()
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", value)
    head, _, config = text.partition("\n---\n")
    case = msgspec.convert(yaml.safe_load(head), Case)
    if not case.requests and not case.status:
        raise msgspec.ValidationError(f"{path} asks nothing")
    # Blank lines in place of the head, so that the mesh's messages name the lines of this file.
    return msgspec.structs.replace(case, config="\n" * (head.count("\n") + 2) + config)


def question(request: Request, case_id: str) -> dict[str, Any]:
    """Return what the client is told to ask."""
    kind, _, rest = request.send.partition(" ")
    if kind == "NAME":
        return {"kind": "name", "host": rest}
    if kind in ("TCP", "TLS"):
        words = shlex.split(rest)
        host, _, port = (request.connect or words[0]).rpartition(":")
        asked = {"kind": kind.lower(), "host": host, "port": int(port), "text": words[-1], "times": request.times}
        return {**asked, "sni": words[1]} if kind == "TLS" else asked
    if urlsplit(rest).scheme != "http":
        raise msgspec.ValidationError(f"{request.send!r} is none of METHOD http://..., TCP, TLS, NAME")
    connect = None
    if request.connect:
        host, _, port = request.connect.rpartition(":")
        connect = [host, int(port)]
    return {
        "kind": "http",
        "method": kind,
        "url": rest,
        "headers": {
            "x-case-id": case_id,
            **(request.token.headers() if request.token is not None else {}),
            **request.headers,
        },
        "body": request.body,
        "times": request.times,
        "connect": connect,
    }


def faults_of(request: Request, answers: list[Any]) -> list[str]:
    """Return what of the answers is not as expected; empty when all is. Copies and attempts are judged elsewhere."""
    expect = request.expect
    if request.send.startswith("NAME "):
        return _name_faults(expect, answers[0])
    if request.send.startswith(("TCP ", "TLS ")):
        faults = [_text_fault("line", expect.line, answer) for answer in answers]
        return [fault for fault in faults if fault] + _share_faults(expect, [_word(answer, 1) for answer in answers])
    faults = [fault for answer in answers for fault in _http_faults(expect, answer)]
    return list(dict.fromkeys(faults)) + _share_faults(expect, [_told(answer).get("version") for answer in answers])


def _word(line: str, position: int) -> str | None:
    words = line.split()
    return words[position] if len(words) > position else None


def _told(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the application said of itself; {} where the answer is not one of its."""
    try:
        content = json.loads(answer["body"])
    except ValueError:
        return {}
    return content if isinstance(content, dict) and "seen" in content else {}


def _http_faults(expect: Expect, answer: dict[str, Any]) -> list[str]:
    told = _told(answer)
    short = f"{answer['status']} {answer['body'][:200]!r}"
    faults = []
    if expect.status is not None:
        allowed = expect.status if isinstance(expect.status, list) else [expect.status]
        if answer["status"] not in allowed:
            faults.append(f"status: wanted {expect.status}, got {short}")
    for name in ("service", "version", "port"):
        wanted = getattr(expect, name)
        if wanted is not None and told.get(name) != wanted:
            faults.append(f"{name}: wanted {wanted!r}, got {told.get(name)!r} ({short})")
    if expect.seen is not None:
        faults.extend(f"seen {fault}" for fault in seen_faults(expect.seen, told.get("seen")))
    faults.extend(_header_faults(expect.headers, answer["headers"]))
    if expect.body is not None:
        faults.append(_text_fault("body", expect.body, answer["body"]))
    if expect.seconds is not None and not expect.seconds[0] <= answer["seconds"] <= expect.seconds[1]:
        faults.append(f"seconds: wanted {expect.seconds}, got {answer['seconds']:.2f}")
    return [fault for fault in faults if fault]


def seen_faults(wanted: Seen, seen: dict[str, Any] | None) -> list[str]:
    """Return how a request that an application saw differs from what was wanted."""
    if seen is None:
        return ["nothing: no application answered"]
    faults = [
        f"{name}: wanted {getattr(wanted, name)!r}, got {seen[name]!r}"
        for name in ("method", "path")
        if getattr(wanted, name) not in (None, seen[name])
    ]
    if wanted.body is not None:
        faults.append(_text_fault("body", wanted.body, seen["body"]))
    return [fault for fault in (*faults, *_header_faults(wanted.headers, seen["headers"])) if fault]


def _header_faults(wanted: dict[str, Any], headers: dict[str, str]) -> list[str]:
    faults = []
    for name, value in wanted.items():
        got = headers.get(name.lower())
        if value is None:
            faults.append(f"header {name}: wanted none, got {got!r}" if got is not None else "")
        else:
            faults.append(_text_fault(f"header {name}", value, got))
    return faults


def _text_fault(what: str, wanted: Any, got: str | None) -> str:
    match wanted:
        case None:
            return ""
        case {"contains": part} if len(wanted) == 1:
            good = got is not None and str(part) in got
        case {"matches": regex} if len(wanted) == 1:
            good = got is not None and re.search(regex, got) is not None
        case str() | int() | float():
            good = got == str(wanted)
        case _:
            raise msgspec.ValidationError(f"{what}: {wanted!r} is no text, contains or matches")
    return "" if good else f"{what}: wanted {wanted!r}, got {got!r}"


def _share_faults(expect: Expect, versions: list[str | None]) -> list[str]:
    if expect.shares is None:
        return []
    counts = Counter(versions)
    faults = [f"shares: {version!r} answered" for version in counts if version not in expect.shares]
    for version, (least, most) in expect.shares.items():
        percent = 100.0 * counts[version] / len(versions)
        if not least <= percent <= most:
            faults.append(f"shares: wanted {least} to {most} % from {version}, got {percent:.1f} %")
    return faults


def _name_faults(expect: Expect, addresses: list[str]) -> list[str]:
    match expect.addresses:
        case "some":
            good = bool(addresses)
        case "none":
            good = not addresses
        case list():
            good = addresses == sorted(expect.addresses)
        case _:
            raise msgspec.ValidationError("a NAME request expects addresses")
    return [] if good else [f"addresses: wanted {expect.addresses}, got {addresses}"]
