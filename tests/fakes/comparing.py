"""Compare what the evaluator decides with what a real Envoy does, case by case; make what differs small.

A `Pair` is one workload's policies and one `Shot` at it. `differences` sends the shots of many workloads and returns
the pairs about which the two disagree; `shrunk` takes from such a pair whatever the difference does not need.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from tests.fakes.court import Case, Client, Court, HttpOutcome, ask_http
from tests.strategies.policies import TRUST_DOMAINS, Shot

from lateen.api.base import Object
from lateen.api.decode import decode_documents
from lateen.authz import Decision, Normalisation, decide, policy_of
from lateen.authz.normalise import normalise_path, split_target

Document = dict[str, Any]
Fields = dict[str, Any]  # of `InboundListenerInput`
WORKERS = 4
SHRINK_STEPS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Policies, a shot, and what came of it."""

    documents: tuple[Document, ...]
    shot: Shot
    decision: Decision
    outcome: HttpOutcome | bool  # of HTTP, or of TCP
    fault: str  # "" when both agree

    def __str__(self) -> str:
        http = self.shot.request.http
        return "\n".join(
            (
                f"the evaluator: {self.decision.status} {self.decision.why}",
                f"Envoy: {self.outcome}",
                self.fault,
                f"identity {self.shot.identity}, {self.shot.request.connection}",
                "TCP" if http is None else repr(self.shot.bytes()),
                yaml.safe_dump_all(self.documents),
            )
        )


@dataclass
class Workload:
    """One workload's policies, and who asks there."""

    documents: list[Document]
    shots: list[Shot]
    objects: tuple[Object, ...] = field(init=False)

    def __post_init__(self) -> None:
        decoded = decode_documents(yaml.safe_dump_all(self.documents).encode(), "policies.yaml")
        errors = [problem for problem in decoded.problems if problem.level == "error"]
        assert not errors, errors
        self.objects = decoded.objects


class Comparison:
    """Everything that is fixed while pairs are compared. `translated` gives a listener's fields for policies."""

    def __init__(
        self,
        court: Court,
        translated: Callable[[Sequence[Object]], Fields],
        *,
        normalisation: Normalisation,
        asked: Callable[[HttpOutcome], bool] = lambda _: False,
    ) -> None:
        self._court = court
        self._translated = translated
        self._normalisation = normalisation
        self._asked = asked
        self.counts: Counter[str] = Counter()  # of pairs, by what the evaluator decided

    def pairs(self, workloads: Sequence[Workload]) -> list[Pair]:
        """Return every pair of these workloads with what came of it."""
        cases = [Case(self._translated(workload.objects)) for workload in workloads]
        self._court.hold(cases)
        with ThreadPoolExecutor(WORKERS) as pool:
            found = [pair for part in pool.map(self._try, cases, workloads) for pair in part]
        self.counts.update(f"{'HTTP' if pair.shot.request.http else 'TCP'} {pair.decision.status}" for pair in found)
        return found

    def differences(self, workloads: Sequence[Workload]) -> list[Pair]:
        return [pair for pair in self.pairs(workloads) if pair.fault]

    def _try(self, case: Case, workload: Workload) -> list[Pair]:
        policies = [policy_of(obj) for obj in workload.objects]
        found = []
        for shot, outcome in self._outcomes(case, workload.shots):
            decision = decide(policies, shot.request, normalisation=self._normalisation, trust_domains=TRUST_DOMAINS)
            fault = self._fault(shot, decision, outcome)
            found.append(
                Pair(documents=tuple(workload.documents), shot=shot, decision=decision, outcome=outcome, fault=fault)
            )
        return found

    def _outcomes(self, case: Case, shots: Iterable[Shot]) -> Iterator[tuple[Shot, HttpOutcome | bool]]:
        """Ask, over one connection for all shots in a row that come from the same client."""
        sock: socket.socket | None = None
        last: Client | None = None
        for shot in shots:
            client = client_of(shot)
            http = shot.request.http
            if http is None:
                yield shot, self._court.ask_tcp(case, client)
                continue
            if sock is None or client != last:
                if sock is not None:
                    sock.close()
                sock, last = self._court.connect(case, client), client
            outcome = ask_http(sock, shot.bytes(), head=http.method == "HEAD")
            yield shot, outcome
            if outcome.closing:
                sock.close()
                sock = None
        if sock is not None:
            sock.close()

    def _fault(self, shot: Shot, decision: Decision, outcome: HttpOutcome | bool) -> str:
        http = shot.request.http
        if isinstance(outcome, bool) or http is None:
            return "" if outcome == decision.allowed else "one lets it in, the other does not"
        if decision.status != outcome.status or outcome.arrived != decision.allowed:
            return "one lets it in, the other does not"
        if outcome.arrived:
            target = split_target(http.path, http.authority)
            assert target is not None
            path = normalise_path(target[1], self._normalisation)
            if outcome.path.partition("?")[0] != path:
                return f"the evaluator compared {path!r}, the application got {outcome.path!r}"
        elif outcome.status == 403 and outcome.body != b"RBAC: access denied":
            return "refused by something else"
        return ""

    # ---- shrinking

    def shrunk(self, pair: Pair) -> Pair:
        """Return the smallest pair found that still differs."""
        for _ in range(SHRINK_STEPS):
            smaller = next(self._smaller(pair), None)
            if smaller is None:
                return pair
            pair = smaller
        return pair

    def _smaller(self, pair: Pair) -> Iterator[Pair]:
        for documents in _less(list(pair.documents)):
            yield from self._if_it_differs(documents, pair.shot)
        http = pair.shot.request.http
        if http is not None:
            for index in range(len(http.headers)):
                less = replace(http, headers=(*http.headers[:index], *http.headers[index + 1 :]))
                yield from self._if_it_differs(
                    list(pair.documents), replace(pair.shot, request=replace(pair.shot.request, http=less))
                )

    def _if_it_differs(self, documents: list[Document], shot: Shot) -> Iterator[Pair]:
        try:
            workload = Workload(documents, [shot])
        except AssertionError:
            return
        yield from self.differences([workload])


def client_of(shot: Shot) -> Client:
    connection = shot.request.connection
    return Client(
        identity=shot.identity,
        sni=connection.sni,
        source=shot.source,
        claimed=shot.claimed,
        to=(connection.destination_ip, connection.destination_port),
    )


def _less(value: Any) -> Iterator[Any]:
    """Yield `value` with one thing less in it, anywhere, largest first."""
    if isinstance(value, list):
        if len(value) > 1:
            for index in range(len(value)):
                yield value[:index] + value[index + 1 :]
        for index, entry in enumerate(value):
            for less in _less(entry):
                yield [*value[:index], less, *value[index + 1 :]]
    elif isinstance(value, dict):
        for key in value:
            if key not in ("apiVersion", "kind", "metadata", "spec", "name", "namespace", "action", "key"):
                yield {name: entry for name, entry in value.items() if name != key}
        for key, entry in value.items():
            for less in _less(entry):
                yield {**deepcopy(value), key: less}
