"""Decide by rules, and report by them.

In:  rules in force, attributes of one request or connection, who asks. Out: an `Outcome`; lines and counts.
Rules: docs/api/Rule.md "What is decided". The order of rules means nothing for whether a request passes: any denial
denies; where a rule allows, one of those that allow must match; quotas are charged by what passed all that. Of several
denials the first is told: of the root namespace, then by age.

What needs nobody else is decided at once, in one go. Only what is left is asked of adapters: all of a request's at the
same time, each within its rule's `timeout`, counted from the request's arrival and not from the question's.

A rule that cannot be decided (a list that cannot be read, a Redis that is away, an adapter that fails or is late)
passes or refuses as its failurePolicy says, and is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal

from lateen.expr import ABSENT, Activation, Expression, Read
from lateen.mixer.adapter import AdapterError, Client, Verdict
from lateen.mixer.equipment import Equipment
from lateen.mixer.quotas import Key
from lateen.mixer.rules import CompiledRule
from lateen.mixer.services.answers import ALLOWED, Outcome
from lateen.wire.mixer import Asker

__all__ = ["Engine"]

NOT_ALLOWED: Final = "no rule allows this\n"
CANNOT_DECIDE: Final = "mixer cannot decide, and the rule fails closed\n"
BACKSTOP_SECONDS: Final = 0.05  # beyond the deadline of an adapter, which keeps it itself and knows whose fault it was

MAX_BODY: Final = 64 * 1024
Bag = Mapping[str, Any]


class _Elsewhere(Enum):
    SHARED = "shared"


SHARED: Final = _Elsewhere.SHARED
Shared = Literal[_Elsewhere.SHARED]


class Engine:
    """A `Judge`: one set of rules. Another takes its place when rules change."""

    def __init__(self, rules: Sequence[CompiledRule], equipment: Equipment, *, root_namespace: str) -> None:
        """`rules` in any order; those of `root_namespace` are for every namespace."""
        self._rules = sorted(rules, key=lambda rule: (rule.namespace != root_namespace, rule.age))
        self._root = root_namespace
        self._equipment = equipment
        self._by_asker: dict[tuple[Any, ...], _Scope] = {}

    @property
    def reads(self) -> Iterable[Read]:
        return frozenset(read for rule in self._rules for read in rule.reads)

    async def check(self, bag: Bag, asker: Asker, *, tcp: bool) -> Outcome:
        """Return what is to become of a request, or of a connection."""
        found = self.decide(bag, asker, tcp=tcp)
        return found if isinstance(found, Outcome) else await found

    def decide(self, bag: Bag, asker: Asker, *, tcp: bool) -> Outcome | Awaitable[Outcome]:
        """Return the same: at once, where nobody else has to be asked, which costs no turn of the loop."""
        activation = Activation(bag)
        found = self._at_once(activation, asker, tcp=tcp)
        if isinstance(found, Outcome):
            return found
        return self._decide(found, activation, _client(bag), asyncio.get_running_loop().time())

    async def _decide(self, rules: list[CompiledRule], activation: Activation, client: Client, began: float) -> Outcome:
        written: dict[str, str] = {}
        if any(rule.asked for rule in rules):
            answers = await self._ask(rules, activation, client, began)
            if isinstance(answers, Outcome):
                return answers
            written = answers
        for rule in rules:
            if rule.spec.quota is not None:
                refused = self._charge(rule, activation, 1)
                if refused is SHARED:
                    refused = await self._take(rule, activation, 1, began)
                if refused is not None:
                    return refused
        return self._admitted(rules, activation, written)

    async def limit(self, bag: Bag, asker: Asker, domain: str, hits: int) -> Outcome:
        """Charge the quotas of a domain: a namespace, or one rule in it."""
        began = asyncio.get_running_loop().time()
        activation = Activation(bag)
        for rule in self._rules:
            if rule.spec.quota is None or domain not in (rule.namespace, rule.name):
                continue
            if rule.match is None or rule.match.holds(activation):
                refused = self._charge(rule, activation, max(hits, 1))
                if refused is SHARED:
                    refused = await self._take(rule, activation, max(hits, 1), began)
                if refused is not None:
                    return refused
        return ALLOWED

    def _at_once(self, activation: Activation, asker: Asker, *, tcp: bool) -> Outcome | list[CompiledRule]:
        """Return the outcome if it needs nobody else, otherwise the rules that match and have let pass so far."""
        stats = self._equipment.stats.results
        scope = self._scope(asker)
        passing: list[CompiledRule] = []
        allows = allowed = asks = False
        first_allow = ""
        for rule in scope.connections if tcp else scope.requests:
            check = rule.spec.check
            matches = rule.match is None or rule.match.holds(activation)
            if check is not None and check.allow is not None:
                allows, first_allow = True, first_allow or rule.name
                allowed = allowed or matches
            if not matches:
                continue
            refused = self._refusal(rule, activation)
            if refused is not None:
                return refused
            asks = asks or rule.elsewhere
            passing.append(rule)
        if allows and not allowed:
            stats[first_allow, "denied"] += 1
            return Outcome(allowed=False, status=403, body=NOT_ALLOWED, rule=first_allow)
        if asks:
            return passing
        for rule in passing:
            if rule.spec.quota is not None:
                spent = self._charge(rule, activation, 1)
                assert spent is not SHARED
                if spent is not None:
                    return spent
        return self._admitted(passing, activation, {})

    def _admitted(self, passing: list[CompiledRule], activation: Activation, written: Mapping[str, str]) -> Outcome:
        stats = self._equipment.stats.results
        for rule in passing:
            stats[rule.name, "allowed"] += 1
        return _changes(passing, activation, written)

    def report(self, bags: Sequence[Bag], asker: Asker, *, tcp: bool) -> None:
        rules = self._scope(asker).connection_reports if tcp else self._scope(asker).request_reports
        if not rules:
            return
        for bag in bags:
            activation = Activation(bag)
            for rule in rules:
                if rule.match is None or rule.match.holds(activation):
                    self._report(rule, activation)

    # ---- who asks

    def _scope(self, asker: Asker) -> _Scope:
        key = (asker.namespace, asker.rules, asker.gateway, tuple(asker.labels.items()))
        found = self._by_asker.get(key)
        if found is None:
            if len(self._by_asker) > 10_000:
                self._by_asker.clear()
            found = self._by_asker[key] = _Scope.of([rule for rule in self._rules if self._is_for(rule, asker)])
        return found

    def _is_for(self, rule: CompiledRule, asker: Asker) -> bool:
        if asker.rules is not None:
            return rule.name in asker.rules
        if asker.namespace and rule.namespace not in (self._root, asker.namespace):
            return False
        if rule.gateway:
            return rule.gateway in (asker.gateway, f"{asker.namespace}/{asker.gateway}")
        return asker.labels.items() >= dict(rule.labels).items()

    # ---- decisions

    def _refusal(self, rule: CompiledRule, activation: Activation) -> Outcome | None:
        check = rule.spec.check
        if check is None:
            return None
        stats = self._equipment.stats.results
        if check.deny is not None:
            stats[rule.name, "denied"] += 1
            deny = check.deny
            return Outcome(
                allowed=False,
                status=deny.status,
                body=deny.body,
                rule=rule.name,
                headers=tuple((name.lower(), value) for name, value in deny.headers.items()),
            )
        if check.list is not None:
            entries = self._equipment.list_of(rule.name)
            if entries is None:
                return self._failed(rule)
            assert rule.listed is not None
            value = rule.listed.evaluate(activation)
            # What is absent is in no list.
            if (value is not ABSENT and value in entries) is (check.list.deny == "PRESENT"):
                stats[rule.name, "denied"] += 1
                return Outcome(allowed=False, status=check.list.status, body=check.list.body, rule=rule.name)
        return None

    def _charge(self, rule: CompiledRule, activation: Activation, hits: int) -> Outcome | Shared | None:
        """Charge a quota that is in this process; `SHARED`: it is elsewhere."""
        quota = rule.spec.quota
        assert quota is not None
        if quota.shared:
            return SHARED
        counts = self._equipment.quotas.get(rule.name)
        if counts is None:
            return self._failed(rule)
        return None if counts.charge(*_charged(rule, activation, hits)) else self._spent(rule)

    async def _take(self, rule: CompiledRule, activation: Activation, hits: int, began: float) -> Outcome | None:
        counts = self._equipment.shared.get(rule.name)
        if counts is None:
            return self._failed(rule)
        try:
            async with asyncio.timeout_at(_until(rule, began) + BACKSTOP_SECONDS):
                taken = await counts.take(*_charged(rule, activation, hits), _left(rule, began))
        except (AdapterError, TimeoutError):
            return self._failed(rule)
        return None if taken else self._spent(rule)

    def _spent(self, rule: CompiledRule) -> Outcome:
        quota = rule.spec.quota
        assert quota is not None
        self._equipment.stats.results[rule.name, "denied"] += 1
        return Outcome(allowed=False, status=quota.status, body=quota.body, rule=rule.name)

    # ---- adapters

    async def _ask(
        self, rules: list[CompiledRule], activation: Activation, client: Client, began: float
    ) -> Outcome | dict[str, str]:
        """Ask the adapters of all rules. Return the first refusal in order of the rules, or headers to write."""
        questions = [(rule, part) for rule in rules for part in rule.asked]
        verdicts = await asyncio.gather(
            *(self._verdict(rule, part, values, activation, client, began) for rule, (part, values) in questions)
        )
        written: dict[str, str] = {}
        for (rule, _), verdict in zip(questions, verdicts, strict=True):
            if verdict is None:
                refused = self._failed(rule)
                if refused is not None:
                    return refused
            elif not verdict.allowed:
                self._equipment.stats.results[rule.name, "denied"] += 1
                return Outcome(
                    allowed=False,
                    status=verdict.status,
                    body=verdict.body[:MAX_BODY],
                    rule=rule.name,
                    headers=tuple((name.lower(), text) for name, text in verdict.headers.items()),
                )
            else:
                written.update((name.lower(), text) for name, text in verdict.request_headers.items())
        return written

    async def _verdict(
        self,
        rule: CompiledRule,
        part: str,
        values: Sequence[tuple[str, Expression]],
        activation: Activation,
        client: Client,
        began: float,
    ) -> Verdict | None:
        """Return what one adapter says; None: it has not said anything in time, or it cannot."""
        adapter = self._equipment.adapters.get((rule.name, part))
        if adapter is None:
            return None
        told = _values(values, activation)
        try:
            async with asyncio.timeout_at(_until(rule, began) + BACKSTOP_SECONDS):
                return await adapter.check(told, client, _left(rule, began))
        except AdapterError as error:
            self._equipment.note(rule.name, part, str(error))
        except TimeoutError:
            limit = rule.spec.timeout.total_seconds() * 1000
            self._equipment.note(rule.name, part, f"no answer within the rule's timeout of {limit:g}ms")
        return None

    def _failed(self, rule: CompiledRule) -> Outcome | None:
        self._equipment.stats.results[rule.name, "failed"] += 1
        if rule.spec.failure_policy == "open":
            return None
        return Outcome(allowed=False, status=503, body=CANNOT_DECIDE, rule=rule.name)

    # ---- reports

    def _report(self, rule: CompiledRule, activation: Activation) -> None:
        report, equipment = rule.spec.report, self._equipment
        assert report is not None
        taken = True
        if report.log is not None:
            line: dict[str, Any] = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "severity": report.log.severity,
                "rule": rule.name,
            }
            line.update(_values(rule.log, activation))
            taken = equipment.logbook.put(report.log.file, line)
        if report.metric is not None and rule.name in equipment.metrics:
            taken = self._count(rule, report.metric.name, activation) and taken
        for part, values in rule.told:
            sink = equipment.sinks.get((rule.name, part))
            taken = sink is not None and sink.put(_values(values, activation)) and taken
        equipment.stats.reported[rule.name, "taken" if taken else "dropped"] += 1

    def _count(self, rule: CompiledRule, name: str, activation: Activation) -> bool:
        value: Any = 1 if rule.metric_value is None else rule.metric_value.evaluate(activation)
        if hasattr(value, "total_seconds"):
            value = value.total_seconds()
        if value is ABSENT or isinstance(value, bool) or not isinstance(value, int | float):
            return True  # there is nothing to count
        labels = tuple(
            _text(expression.evaluate(activation)) for _, expression in sorted(rule.metric_labels, key=lambda e: e[0])
        )
        return self._equipment.meters.add(name, labels, value)


@dataclass(frozen=True, slots=True)
class _Scope:
    """The rules for one kind of proxy."""

    requests: tuple[CompiledRule, ...]
    connections: tuple[CompiledRule, ...]
    request_reports: tuple[CompiledRule, ...]
    connection_reports: tuple[CompiledRule, ...]

    @staticmethod
    def of(rules: Sequence[CompiledRule]) -> _Scope:
        return _Scope(
            tuple(rule for rule in rules if rule.reading.checks is not None),
            tuple(rule for rule in rules if rule.reading.decides_connections),
            tuple(rule for rule in rules if rule.reading.reports is not None),
            tuple(rule for rule in rules if rule.reading.reports_connections),
        )


def _until(rule: CompiledRule, began: float) -> float:
    """Return when a rule's decision is due, as the loop tells time."""
    return began + rule.spec.timeout.total_seconds()


def _left(rule: CompiledRule, began: float) -> float:
    """Return how many seconds are left for a rule's decision, at least a millisecond."""
    return max(_until(rule, began) - asyncio.get_running_loop().time(), 0.001)


def _client(bag: Bag) -> Client:
    return Client(bag.get("source", {}).get("principal"), bag.get("request", {}).get("auth", {}).get("claims"))


def _charged(rule: CompiledRule, activation: Activation, hits: int) -> tuple[Key, int]:
    """Return whose count is charged, and by how much."""
    amount = 1 if rule.amount is None else rule.amount.evaluate(activation)
    if not isinstance(amount, int) or amount < 0:
        amount = 1
    return tuple(_key_part(expression, activation) for expression in rule.by), amount * hits


def _changes(rules: Sequence[CompiledRule], activation: Activation, written: Mapping[str, str]) -> Outcome:
    """Return what rules that passed change; the last one to write a header is the one that counts.

    `written`: what adapters write.
    """
    if not written and not any(rule.request.set or rule.request.remove or rule.response.set for rule in rules):
        return ALLOWED
    request: dict[str, str] = dict(written)
    response: dict[str, str] = {}
    removed: dict[str, None] = {}
    for rule in rules:
        removed.update(dict.fromkeys(rule.request.remove))
        for headers, ops in ((request, rule.request), (response, rule.response)):
            for name, expression in ops.set:
                value = expression.evaluate(activation)
                if isinstance(value, str) and value.isprintable():
                    headers[name] = value
    return Outcome(
        request_set=tuple(request.items()),
        request_remove=tuple(name for name in removed if name not in request),
        response_set=tuple(response.items()),
    )


def _key_part(expression: Expression, activation: Activation) -> str:
    value = expression.evaluate(activation)
    return "\0" if value is ABSENT else _text(value)[:256]


def _text(value: Any) -> str:
    if value is ABSENT:
        return ""
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _values(values: Sequence[tuple[str, Expression]], activation: Activation) -> dict[str, Any]:
    """Return what expressions say, plain; those without a value are left out."""
    return {
        name: value.total_seconds() if hasattr(value, "total_seconds") else value
        for name, expression in values
        if (value := expression.evaluate(activation)) is not ABSENT
    }
