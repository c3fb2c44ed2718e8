"""Compare what the evaluator decides with what a real Envoy does, case by case; make what differs small.

A `Pair` is one workload's policies and one `Shot` at it. `differences` sends the shots of many workloads and returns
the pairs about which the two disagree; `shrunk` takes from such a pair whatever the difference does not need.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import yaml
from tests.fakes.court import (
    GRPC_AUTHORIZER,
    HTTP_AUTHORIZER,
    REFUSED,
    SECONDS,
    Case,
    Client,
    Court,
    HttpOutcome,
    ask_http,
)
from tests.fakes.raw_http import H2Answer, RawH2
from tests.strategies.policies import TRUST_DOMAINS, Shot

from lateen.api.base import EMPTY, Object
from lateen.api.decode import decode_documents
from lateen.api.security import From, Rule, To
from lateen.authz import Decision, Normalisation, Policy, decide, default_normalisation, policy_of
from lateen.authz.decide import Provider
from lateen.authz.normalise import normalise_path, split_target
from lateen.folders.folder import Change
from lateen.pilot.model.values import InboundListenerInput
from lateen.pilot.model.values_jwt import RequestAuth
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot

Document = dict[str, Any]
Fields = dict[str, Any]  # of `InboundListenerInput`
WORKERS = 4
SHRINK_STEPS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Policies, a shot, and what came of it."""

    documents: tuple[Document, ...]
    policies: tuple[Policy, ...] = field(repr=False)
    tokens: bool  # are checked
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
                "TCP" if http is None else repr(self.shot.fields() if self.shot.h2 else self.shot.bytes()),
                yaml.safe_dump_all(self.documents),
            )
        )


@dataclass
class Guarded:
    """One workload's policies, and who asks there."""

    documents: list[Document]
    shots: list[Shot]
    tokens: bool = False  # are checked
    objects: tuple[Object, ...] = field(init=False)

    def __post_init__(self) -> None:
        decoded = decode_documents(yaml.safe_dump_all(self.documents).encode(), "policies.yaml")
        errors = [problem for problem in decoded.problems if problem.level == "error"]
        assert not errors, errors
        self.objects = decoded.objects


def in_force(objects: Iterable[Object], *, tokens: bool = False, mesh: Mapping[str, Any] = EMPTY) -> Fields:
    """Return what Pilot's model says of policies and spelling at a workload of the namespace `default`.

    `tokens`: they are checked there. `mesh` is more of MeshConfig. The rest of the listener is the court's.
    """
    spec = {"trustDomainAliases": list(TRUST_DOMAINS[1:]), "extensionProviders": _PROVIDERS, **mesh}
    config = {"apiVersion": "mesh.istio.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "mesh"}, "spec": spec}
    around = decode_documents(yaml.safe_dump_all([config, *_AUTHORIZERS]).encode(), "mesh.yaml")
    errors = [problem for problem in around.problems if problem.level == "error"]
    assert not errors, errors
    workload = Workload(
        name="app", namespace="default", service_account="app", labels={"app": "app"}, ip="10.77.0.10", ready=True
    )
    pilot = Pilot(trust_domain=TRUST_DOMAINS[0], vips=VipTable())
    pilot.apply([Change(obj.key, obj) for obj in (*around.objects, *objects)], {"app": workload})
    found = pilot.inbound.listeners.peek("app")
    assert isinstance(found, InboundListenerInput)
    return {
        "authorization": found.authorization,
        "spelling": found.spelling,
        "request_auth": RequestAuth(enabled=tokens),
    }


_PROVIDERS: list[Document] = [
    {"name": GRPC_AUTHORIZER, "envoyExtAuthzGrpc": {"service": f"{GRPC_AUTHORIZER}.test", "port": 80}},
    {
        "name": HTTP_AUTHORIZER,
        "envoyExtAuthzHttp": {
            "service": f"{HTTP_AUTHORIZER}.test",
            "port": 80,
            "includeRequestHeadersInCheck": ["x-verdict"],
        },
    },
]
_AUTHORIZERS: list[Document] = [
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "hosts": [f"{name}.test"],
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": protocol.lower(), "protocol": protocol}],
            "endpoints": [{"address": "192.0.2.1"}],
        },
    }
    for name, protocol in ((GRPC_AUTHORIZER, "GRPC"), (HTTP_AUTHORIZER, "HTTP"))
]
PROVIDERS: Mapping[str, Provider] = {GRPC_AUTHORIZER: "grpc", HTTP_AUTHORIZER: "http"}


class Comparison:
    """Everything that is fixed while pairs are compared."""

    def __init__(self, court: Court) -> None:
        self._court = court
        self._tokens = False  # are checked where pairs are made small
        self.counts: Counter[str] = Counter()  # of pairs, by what the evaluator decided

    def pairs(self, workloads: Sequence[Guarded]) -> list[Pair]:
        """Return every pair of these workloads with what came of it."""
        cases = [Case(in_force(workload.objects, tokens=workload.tokens)) for workload in workloads]
        self._court.hold(cases)
        with ThreadPoolExecutor(WORKERS) as pool:
            found = [pair for part in pool.map(self._try, cases, workloads) for pair in part]
        self.counts.update(f"{'HTTP' if pair.shot.request.http else 'TCP'} {pair.decision.status}" for pair in found)
        return found

    def differences(self, workloads: Sequence[Guarded]) -> list[Pair]:
        return [pair for pair in self.pairs(workloads) if pair.fault]

    def _try(self, case: Case, workload: Guarded) -> list[Pair]:
        policies = tuple(map(policy_of, workload.objects))
        found = []
        for shot, outcome in self._outcomes(case, workload.shots):
            decision = decide(policies, shot.request, trust_domains=TRUST_DOMAINS, providers=PROVIDERS)
            fault = _fault(shot, decision, outcome, default_normalisation(policies))
            found.append(
                Pair(
                    documents=tuple(workload.documents),
                    policies=policies,
                    tokens=workload.tokens,
                    shot=shot,
                    decision=decision,
                    outcome=outcome,
                    fault=fault,
                )
            )
        return found

    def _outcomes(self, case: Case, shots: Iterable[Shot]) -> Iterator[tuple[Shot, HttpOutcome | bool]]:
        """Ask, over one connection for all shots in a row that come from the same client."""
        sock: socket.socket | None = None
        last: Client | None = None
        h2: RawH2 | None = None
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
                h2 = RawH2(sock, seconds=SECONDS) if shot.h2 else None
            outcome = (
                outcome_of(h2.ask(shot.fields())) if h2 else ask_http(sock, shot.bytes(), head=http.method == "HEAD")
            )
            yield shot, outcome
            if outcome.closing:
                sock.close()
                sock = None
        if sock is not None:
            sock.close()

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
        self._tokens = pair.tokens
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
            workload = Guarded(documents, [shot], tokens=self._tokens)
        except AssertionError:
            return
        yield from self.differences([workload])


def _fault(shot: Shot, decision: Decision, outcome: HttpOutcome | bool, how: Normalisation) -> str:
    """Return in what the two disagree, "" when they do not."""
    http = shot.request.http
    refused = _refused_by_authorizer(shot, decision)
    allowed = decision.allowed and refused is None
    if isinstance(outcome, bool) or http is None:
        return "" if outcome == allowed else "one lets it in, the other does not"
    if outcome.arrived != allowed:
        return "one lets it in, the other does not"
    if outcome.status != (refused or decision.status) and not _asked_before(decision, outcome):
        return "they refuse it in different ways"
    if outcome.arrived:
        target = split_target(http.path, http.authority)
        assert target is not None
        path = normalise_path(target[1], how)
        if outcome.path.partition("?")[0] != path:
            return f"the evaluator compared {path!r}, the application got {outcome.path!r}"
    elif outcome.status == 403 and http.method != "HEAD" and outcome.body != b"RBAC: access denied":
        return "refused by something else"
    return ""


def _refused_by_authorizer(shot: Shot, decision: Decision) -> int | None:
    """Return the status with which an authorizer that is asked refuses; None where none is, or it agrees."""
    http = shot.request.http
    agreed = http is not None and ("x-verdict", "yes") in http.headers
    return REFUSED[decision.asks[0]] if decision.asks and not agreed else None


def _asked_before(decision: Decision, outcome: HttpOutcome) -> bool:
    """Return whether another authorizer refused before the one that cannot be asked had its turn."""
    return decision.action == "CUSTOM" and outcome.status in REFUSED.values()


def fields_that_decide(pair: Pair, among: Set[str]) -> set[str]:
    """Return the fields of sources, operations and conditions without which the evaluator would decide otherwise."""
    found = set()
    for name in among & {name for policy in pair.policies for rule in policy.spec.rules for name in _fields(rule)}:
        less = [
            replace(
                policy,
                spec=msgspec.structs.replace(
                    policy.spec, rules=tuple(_without(rule, name) for rule in policy.spec.rules)
                ),
            )
            for policy in pair.policies
        ]
        if (
            decide(less, pair.shot.request, trust_domains=TRUST_DOMAINS, providers=PROVIDERS).allowed
            != pair.decision.allowed
        ):
            found.add(name)
    return found


def _fields(rule: Rule) -> Iterator[str]:
    specs = (*(entry.source for entry in rule.from_ or ()), *(entry.operation for entry in rule.to or ()))
    for spec in specs:
        if spec is not None:
            yield from (name for name in spec.__struct_fields__ if getattr(spec, name))
    for condition in rule.when:
        yield f"when {condition.key}"


def _without(rule: Rule, name: str) -> Rule:
    def less(spec: Any) -> Any:
        return msgspec.structs.replace(spec, **{name: ()}) if name in spec.__struct_fields__ else spec

    return msgspec.structs.replace(
        rule,
        from_=tuple(From(source=less(entry.source)) for entry in rule.from_) if rule.from_ else rule.from_,
        to=tuple(To(operation=less(entry.operation)) for entry in rule.to) if rule.to else rule.to,
        when=tuple(condition for condition in rule.when if f"when {condition.key}" != name),
    )


def outcome_of(answer: H2Answer) -> HttpOutcome:
    """Return what became of a request over HTTP/2, where a stream that is reset is what 400 is over HTTP/1."""
    if answer.status == 0:
        return HttpOutcome(status=400, arrived=False, closing=True)
    fields = dict(answer.fields)
    return HttpOutcome(
        status=answer.status,
        arrived=b"x-app-path" in fields,
        path=fields.get(b"x-app-path", b"").decode("latin-1"),
        host=fields.get(b"x-app-host", b"").decode("latin-1"),
        closing=answer.reset,
        body=answer.body,
    )


def client_of(shot: Shot) -> Client:
    connection = shot.request.connection
    return Client(
        identity=shot.identity,
        sni=connection.sni,
        source=shot.source,
        claimed=shot.claimed,
        h2=shot.h2,
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
