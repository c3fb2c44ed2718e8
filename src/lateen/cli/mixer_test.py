"""`lateen mixer test -f RULES --attributes FILE`: what becomes of requests and connections that a file describes.

Decided by Mixer's own engine, here. Each document of the file is one request: attributes by their names, nested or
dotted, and beside them `expect` (allow, deny, or a status), `namespace` and `labels` of the workload, `tcp: true` for a
connection. What a request does not have is left out. Quotas count from one document to the next, also those that are
shared; other servers are not asked, and let pass. A list that is at a URL is not there: its rule's failurePolicy
decides.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lateen.api.base import Object
from lateen.api.decode import decode_documents
from lateen.cli.mixer_adapters import add_adapters_argument
from lateen.cli.output import add_output_argument, print_data, print_table
from lateen.errors import BadInput
from lateen.expr import BY_NAME, Type
from lateen.logs import silent_logs
from lateen.mixer.court import make_court
from lateen.mixer.means import Means
from lateen.mixer.services.answers import Outcome
from lateen.wire.mixer import Asker

__all__ = ["add_arguments", "run"]

OTHER_THAN_EXPECTED = 2
BESIDE = ("expect", "namespace", "labels", "tcp", "name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--rules", metavar="PATH", required=True, type=Path, help="a file of rules, or a folder")
    parser.add_argument("--attributes", metavar="FILE", required=True, type=Path, help="YAML: requests to try")
    parser.add_argument(
        "--root-namespace", default="istio-system", metavar="NAME", help="its rules are for every proxy"
    )
    add_adapters_argument(parser)
    add_output_argument(parser)


@dataclass(frozen=True, slots=True)
class Trial:
    """One request as a file describes it."""

    name: str
    bag: dict[str, Any]
    asker: Asker
    tcp: bool
    expect: str


def run(options: argparse.Namespace) -> int:
    rules = read_rules(options.rules)
    trials = read_trials(options.attributes)
    with silent_logs():
        found = asyncio.run(_decide(rules, trials, options))
    wrong = [trial for trial, outcome in zip(trials, found, strict=True) if not _expected(trial, outcome)]
    if options.output == "table":
        _print(trials, found)
    else:
        data = [_data(trial, outcome) for trial, outcome in zip(trials, found, strict=True)]
        print_data({"trials": data}, options.output)
    return OTHER_THAN_EXPECTED if wrong else 0


async def _decide(rules: list[Object], trials: list[Trial], options: argparse.Namespace) -> list[Outcome]:
    court = make_court(root_namespace=options.root_namespace, means=Means(offline=True, adapters=options.adapters))
    judge = court.judge(rules)
    # Files of lists and adapters are had as in a Mixer that runs.
    running = asyncio.create_task(court.run())
    try:
        return [await judge.check(trial.bag, trial.asker, tcp=trial.tcp) for trial in trials]
    finally:
        running.cancel()
        await asyncio.wait([running])  # what it was starting is there to be closed, or is not
        await court.close()


def read_rules(path: Path) -> list[Object]:
    """Return the rules of a file, or of the YAML files of a folder. Raises: BadInput with all that is wrong."""
    if not path.exists():
        raise BadInput(f"{path}: there is no such file or folder")
    files = [path] if path.is_file() else sorted([*path.rglob("*.yaml"), *path.rglob("*.yml")])
    objects: list[Object] = []
    faults: list[str] = []
    for file in files:
        decoded = decode_documents(file.read_bytes(), str(file))
        faults.extend(str(problem) for problem in decoded.problems if problem.level == "error")
        objects.extend(obj for obj in decoded.objects if obj.key.kind == "Rule")
    if faults:
        raise BadInput("\n".join(faults))
    if not objects:
        raise BadInput(f"{path}: holds no Rule")
    return objects


def read_trials(path: Path) -> list[Trial]:
    """Return the requests of a file. Raises: BadInput with file and document."""
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: {error}") from error
    return [_trial(document, f"{path}: document {number}", number) for number, document in enumerate(documents, 1)]


def _trial(document: Any, place: str, number: int) -> Trial:
    if not isinstance(document, Mapping):
        raise BadInput(f"{place}: a mapping of attributes is wanted, got {type(document).__name__}")
    expect = str(document.get("expect", ""))
    if expect not in ("", "allow", "deny") and not (expect.isdecimal() and len(expect) == 3):
        raise BadInput(f"{place}: expect: allow, deny or a status is wanted, got {expect!r}")
    labels = document.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise BadInput(f"{place}: labels: a mapping is wanted, got {labels!r}")
    bag: dict[str, Any] = {}
    for name, value in _flat({key: inner for key, inner in document.items() if key not in BESIDE}, ""):
        if name not in BY_NAME:
            raise BadInput(f"{place}: there is no attribute {name}; docs/mixer/attributes.md lists them")
        if BY_NAME[name].type in (Type.DURATION, Type.TIMESTAMP):
            value = _moment(name, str(value), place)
        _put(bag, name.split("."), value)
    return Trial(
        name=str(document.get("name", number)),
        bag=bag,
        asker=Asker(
            namespace=str(document.get("namespace", "")), labels={str(key): str(text) for key, text in labels.items()}
        ),
        tcp=bool(document.get("tcp", False)),
        expect=expect,
    )


def _moment(name: str, text: str, place: str) -> Any:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    message: Any = Duration() if BY_NAME[name].type is Type.DURATION else Timestamp()
    try:
        message.FromJsonString(text)
    except ValueError as error:
        raise BadInput(f"{place}: {name}: {error}") from error
    return message


def _flat(value: Mapping[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    """Yield attributes with their whole names; a map's keys are its own."""
    for key, inner in value.items():
        name = f"{above}{key}"
        attribute = BY_NAME.get(name)
        if isinstance(inner, Mapping) and (attribute is None or not attribute.is_map):
            yield from _flat(inner, f"{name}.")
        else:
            yield name, inner


def _put(bag: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        bag = bag.setdefault(part, {})
    bag[path[-1]] = value


def _expected(trial: Trial, outcome: Outcome) -> bool:
    if trial.expect in ("", "allow", "deny"):
        return not trial.expect or outcome.allowed == (trial.expect == "allow")
    return not outcome.allowed and outcome.status == int(trial.expect)


def _data(trial: Trial, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": trial.name,
        "allowed": outcome.allowed,
        "status": 0 if outcome.allowed else outcome.status,
        "rule": outcome.rule,
        "body": outcome.body,
        "requestHeaders": dict(outcome.request_set),
        "removed": list(outcome.request_remove),
        "responseHeaders": dict(outcome.response_set or outcome.headers),
        "expected": _expected(trial, outcome),
    }


def _print(trials: list[Trial], found: list[Outcome]) -> None:
    rows = []
    for trial, outcome in zip(trials, found, strict=True):
        changes = [f"{name}: {value}" for name, value in (*outcome.request_set, *outcome.response_set)]
        changes += [f"-{name}" for name in outcome.request_remove]
        verdict = "-" if not trial.expect else "yes" if _expected(trial, outcome) else f"no: {trial.expect}"
        decision = "allowed" if outcome.allowed else f"denied {outcome.status}"
        rows.append((trial.name, decision, outcome.rule or "-", ", ".join(changes) or "-", verdict))
    print_table(("request", "decision", "by", "headers", "expected"), rows)
