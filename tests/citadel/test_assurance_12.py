"""Assurance 12: only listed node accounts stand for others, and only for pods that run on their own node."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest

from lateen.citadel.authenticate import Caller, PodHost
from lateen.citadel.impersonation import Impersonation, Pod, parse_accounts
from lateen.errors import BadInput, Refused
from lateen.wire.spiffe import SpiffeId

NODE_AGENT = SpiffeId("cluster.local", "istio-system", "ztunnel")
HOST = PodHost(cluster="one", namespace="istio-system", pod="ztunnel-a", uid="u-1", node="node-a")
CALLER = Caller(NODE_AGENT, "kubernetes", host=HOST)


def pod(name: str, node: str, account: str, *, namespace: str = "default", **fields: Any) -> Pod:
    values = {"cluster": "one", "namespace": namespace, "name": name, "uid": f"u-{name}", "node": node}
    return Pod(**{**values, "service_account": account, **fields})


ITSELF = pod("ztunnel-a", "node-a", "ztunnel", namespace="istio-system", uid="u-1")


class Cluster:
    """The pods that there are, in memory: what an informer of a real cluster would hold."""

    def __init__(self, *pods: Pod) -> None:
        self.pods = pods

    def get(self, cluster: str, namespace: str, name: str) -> Pod | None:
        wanted = (cluster, namespace, name)
        return next((one for one in self.pods if (one.cluster, one.namespace, one.name) == wanted), None)

    def on_node(self, cluster: str, node: str) -> Iterable[Pod]:
        return [one for one in self.pods if (one.cluster, one.node) == (cluster, node)]


PODS = (
    ITSELF,
    pod("reviews", "node-a", "reviews"),
    pod("ratings", "node-b", "ratings"),
    pod("done", "node-a", "job", phase="Succeeded"),
    pod("failed", "node-a", "broken", phase="Failed"),
    pod("far", "node-a", "far", cluster="two"),
    pod("waiting", "", "waiting", phase="Pending"),
)
RULE = Impersonation(frozenset({("istio-system", "ztunnel")}), Cluster(*PODS))


def spiffe(account: str, *, namespace: str = "default", trust_domain: str = "cluster.local") -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"


def test_assurance_12_a_pod_of_its_node() -> None:
    stands = RULE.stand_for(CALLER, spiffe("reviews"))
    assert str(stands.identity) == spiffe("reviews")
    assert stands.source == "kubernetes:istio-system/ztunnel", "the trail names who really asked"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        pytest.param(spiffe("ratings"), "no pod of that identity", id="other-node"),
        pytest.param(spiffe("job"), "no pod of that identity", id="has-ended"),
        pytest.param(spiffe("broken"), "no pod of that identity", id="has-failed"),
        pytest.param(spiffe("far"), "no pod of that identity", id="other-cluster"),
        pytest.param(spiffe("waiting"), "no pod of that identity", id="not-scheduled"),
        pytest.param(spiffe("nobody"), "no pod of that identity", id="no-such-account"),
        pytest.param(spiffe("reviews", namespace="other"), "no pod of that identity", id="other-namespace"),
        pytest.param(spiffe("reviews", trust_domain="evil"), "not of trust domain", id="other-trust-domain"),
        pytest.param("spiffe://cluster.local/ns/default/sa/reviews/x", "is no workload identity", id="longer"),
        pytest.param("", "is no workload identity", id="empty"),
        pytest.param("spiffe://cluster.local/ns/default/sa/reviews\0", "service account", id="zero-byte"),
    ],
)
def test_assurance_12_of_no_other(wanted: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        RULE.stand_for(CALLER, wanted)


@pytest.mark.parametrize(
    ("caller", "pods", "message"),
    [
        pytest.param(
            dataclasses.replace(CALLER, identity=SpiffeId("cluster.local", "default", "reviews")),
            PODS,
            "may not ask for other identities",
            id="not-listed",
        ),
        pytest.param(
            dataclasses.replace(CALLER, identity=SpiffeId("cluster.local", "default", "ztunnel")),
            PODS,
            "may not ask for other identities",
            id="listed-in-another-namespace",
        ),
        pytest.param(dataclasses.replace(CALLER, host=None), PODS, "may not ask", id="token-of-no-pod"),
        pytest.param(CALLER, PODS[1:], "own pod is not known", id="its-pod-is-gone"),
        pytest.param(
            dataclasses.replace(CALLER, host=dataclasses.replace(HOST, uid="u-0")),
            PODS,
            "own pod is not known",
            id="an-older-pod-of-that-name",
        ),
        pytest.param(
            CALLER,
            (dataclasses.replace(ITSELF, service_account="other"), *PODS[1:]),
            "own pod is not known",
            id="account-is-not-its-pods",
        ),
        pytest.param(
            dataclasses.replace(CALLER, host=dataclasses.replace(HOST, node="node-b")),
            PODS,
            "own pod is not known",
            id="moved",
        ),
        pytest.param(
            CALLER, (dataclasses.replace(ITSELF, phase="Failed"), *PODS[1:]), "own pod is not known", id="has-failed"
        ),
        pytest.param(
            CALLER, (dataclasses.replace(ITSELF, node=""), *PODS[1:]), "own pod is not known", id="not-scheduled"
        ),
        pytest.param(
            dataclasses.replace(CALLER, host=dataclasses.replace(HOST, cluster="two")),
            PODS,
            "own pod is not known",
            id="other-cluster",
        ),
    ],
)
def test_assurance_12_by_no_other(caller: Caller, pods: tuple[Pod, ...], message: str) -> None:
    rule = Impersonation(RULE.accounts, Cluster(*pods))
    with pytest.raises(Refused, match=message):
        rule.stand_for(caller, spiffe("reviews"))


def test_accounts_as_istio_writes_them() -> None:
    assert parse_accounts("istio-system/ztunnel, kube-system/agent,") == {
        ("istio-system", "ztunnel"),
        ("kube-system", "agent"),
    }
    for text in ("ztunnel", "a/b/c", "/b", "a/"):
        with pytest.raises(BadInput, match="NAMESPACE/SERVICE-ACCOUNT wanted"):
            parse_accounts(text)
