"""DestinationRule: the rules beyond its shape, by the ids of docs/api/DestinationRule.md."""

from __future__ import annotations

import pytest
from tests.fakes.judging import faults


def policy(text: str) -> str:
    return f"host: a\ntrafficPolicy: {{{text}}}"


P = "spec.trafficPolicy"
LB = f"{P}.loadBalancer"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param("host: a_b", "spec.host", 'got "a_b"', id="DR-01"),
        pytest.param("{}", "spec.host", "is required in DestinationRule", id="DR-01-missing"),
        pytest.param(policy(""), P, "at least one block", id="DR-02"),
        pytest.param(
            "host: a\nsubsets: [{name: v1, trafficPolicy: {}}]",
            "spec.subsets[0].trafficPolicy",
            "at least one block",
            id="DR-02-subset",
        ),
        pytest.param(
            policy("tunnel: {targetHost: a.b, targetPort: 1}, proxyProtocol: {}"),
            f"{P}.proxyProtocol",
            "beside tunnel",
            id="DR-03",
        ),
        pytest.param(
            "host: a\nsubsets: [{name: v1}, {name: v1}]", "spec.subsets[1].name", 'is given twice, got "v1"', id="DR-04"
        ),
        pytest.param("host: a\nsubsets: [null]", "spec.subsets[0]", "must not be null", id="DR-04-null"),
        pytest.param("host: a\nsubsets: [{name: v_1}]", "spec.subsets[0].name", 'got "v_1"', id="DR-05"),
        pytest.param(
            "host: a\nsubsets: [{name: v1, labels: {a: 'b c'}}]", "spec.subsets[0].labels.a", 'got "b c"', id="DR-06"
        ),
        pytest.param(
            "host: a\nexportTo: [other]\nworkloadSelector: {matchLabels: {a: b}}",
            "spec.exportTo[0]",
            'must be "."',
            id="EX-7",
        ),
        pytest.param(
            "host: a\nworkloadSelector: {matchLabels: {'': b}}",
            "spec.workloadSelector.matchLabels[]",
            "must not be empty",
            id="SEL-1",
        ),
        pytest.param(
            "host: a\nworkloadSelector: {matchLabels: {a: 'b*'}}",
            "spec.workloadSelector.matchLabels.a",
            "wildcard",
            id="SEL-2",
        ),
        pytest.param(
            f"host: a\nworkloadSelector: {{matchLabels: {{a: {'b' * 64}}}}}",
            "spec.workloadSelector.matchLabels.a",
            "at most 63",
            id="SEL-3",
        ),
        pytest.param(
            policy("portLevelSettings: [{tls: {}}]"), f"{P}.portLevelSettings[0].port.number", "is required", id="DR-09"
        ),
        pytest.param(
            policy("portLevelSettings: [{port: {number: 80}}]"),
            f"{P}.portLevelSettings[0]",
            "must have loadBalancer",
            id="DR-10",
        ),
        pytest.param(
            policy("tunnel: {protocol: GET, targetHost: a.b, targetPort: 1}"),
            f"{P}.tunnel.protocol",
            'got "GET"',
            id="DR-11",
        ),
        pytest.param(
            policy("tunnel: {targetHost: a_b, targetPort: 1}"), f"{P}.tunnel.targetHost", 'got "a_b"', id="DR-12"
        ),
        pytest.param(
            policy("tunnel: {targetHost: a.b, targetPort: 0}"), f"{P}.tunnel.targetPort", "got 0", id="DR-12-port"
        ),
        pytest.param(
            policy("proxyProtocol: {version: V3}"), f"{P}.proxyProtocol.version", "must be one of V1, V2", id="DR-13"
        ),
        pytest.param(
            policy("outlierDetection: {consecutiveLocalOriginFailures: 1}"),
            f"{P}.outlierDetection.consecutiveLocalOriginFailures",
            "splitExternalLocalOriginErrors: true",
            id="DR-15",
        ),
        pytest.param(
            policy("outlierDetection: {interval: 0s}"), f"{P}.outlierDetection.interval", "at least 1ms", id="DR-16"
        ),
        pytest.param(
            policy("outlierDetection: {maxEjectionPercent: 101}"),
            f"{P}.outlierDetection.maxEjectionPercent",
            "got 101",
            id="DR-17",
        ),
        pytest.param(
            policy("outlierDetection: {outlierDetectionHttpErrorCodes: [600]}"),
            f"{P}.outlierDetection.outlierDetectionHttpErrorCodes[0]",
            "at least 100 and at most 599, got 600",
            id="DR-18",
        ),
        pytest.param(policy("connectionPool: {}"), f"{P}.connectionPool", "must have tcp or http", id="DR-19"),
        pytest.param(
            policy("connectionPool: {tcp: {maxConnections: -1}}"),
            f"{P}.connectionPool.tcp.maxConnections",
            "got -1",
            id="DR-20",
        ),
        pytest.param(
            policy("connectionPool: {http: {maxRetries: -1}}"),
            f"{P}.connectionPool.http.maxRetries",
            "got -1",
            id="DR-20-http",
        ),
        pytest.param(
            policy("connectionPool: {tcp: {idleTimeout: 10us}}"),
            f"{P}.connectionPool.tcp.idleTimeout",
            "at least 1ms, got 10us",
            id="DR-21",
        ),
        pytest.param(
            policy("connectionPool: {http: {idleTimeout: 0s}}"),
            f"{P}.connectionPool.http.idleTimeout",
            "at least 1ms",
            id="DR-21-http",
        ),
        pytest.param(
            policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}"),
            f"{P}.connectionPool.http.useClientProtocol",
            "beside h2UpgradePolicy",
            id="DR-22",
        ),
        pytest.param(
            policy("connectionPool: {http: {http2KeepAlive: {interval: 1s}}}"),
            f"{P}.connectionPool.http.http2KeepAlive.timeout",
            "is required",
            id="DR-23",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {httpCookie: {name: ''}}}"),
            f"{LB}.consistentHash.httpCookie.name",
            "must not be empty",
            id="DR-24",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{value: b}]}}}"),
            f"{LB}.consistentHash.httpCookie.attributes[0].name",
            "is required",
            id="DR-25",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: b}, {name: b}]}}}"),
            f"{LB}.consistentHash.httpCookie.attributes[1].name",
            "is given twice",
            id="DR-25-double",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 1, ringHash: {}}}"),
            f"{LB}.consistentHash.minimumRingSize",
            "beside ringHash or maglev",
            id="DR-27",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}"),
            f"{LB}.consistentHash.maglev.tableSize",
            "a prime below 5000011, got 0",
            id="DR-28-missing",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}"),
            f"{LB}.consistentHash.maglev.tableSize",
            "got 65536",
            id="DR-28",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 5000011}}}"),
            f"{LB}.consistentHash.maglev.tableSize",
            "got 5000011",
            id="DR-28-large",
        ),
        pytest.param(
            policy("loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}"),
            f"{LB}.zoneAwareLbSetting",
            "beside localityLbSetting",
            id="DR-29",
        ),
        pytest.param(
            policy(
                "outlierDetection: {}, loadBalancer: {localityLbSetting: {distribute: [{from: a, "
                "to: {a: 100}}], failover: [{from: a, to: b}]}}",
            ),
            f"{LB}.localityLbSetting.failover",
            "beside distribute",
            id="DR-30",
        ),
        pytest.param(
            policy(
                "outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}], "
                "failoverPriority: [topology.kubernetes.io/zone]}}",
            ),
            f"{LB}.localityLbSetting.failoverPriority[0]",
            "a label of the topology",
            id="DR-31",
        ),
        pytest.param(
            policy("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 50, b: 49}}]}}"),
            f"{LB}.localityLbSetting.distribute[0].to",
            "100 together, got 99",
            id="DR-32",
        ),
        pytest.param(
            policy("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 0, b: 100}}]}}"),
            f"{LB}.localityLbSetting.distribute[0].to.a",
            "from 1 to 100, got 0",
            id="DR-32-zero",
        ),
        pytest.param(
            policy("loadBalancer: {localityLbSetting: {distribute: [{from: a//b, to: {a: 100}}]}}"),
            f"{LB}.localityLbSetting.distribute[0].from",
            "region/zone/subzone",
            id="DR-33",
        ),
        pytest.param(
            policy("loadBalancer: {localityLbSetting: {distribute: [{from: '*/b', to: {a: 100}}]}}"),
            f"{LB}.localityLbSetting.distribute[0].from",
            "in the last place only",
            id="DR-33-star",
        ),
        pytest.param(
            policy("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a/*: 50, a/b: 50}}]}}"),
            f"{LB}.localityLbSetting.distribute[0].to[a/b]",
            "must not overlap",
            id="DR-34",
        ),
        pytest.param(
            policy(
                "loadBalancer: {localityLbSetting: {distribute: [{from: a/b, to: {a: 100}}, {from: a, to: {b: 100}}]}}"
            ),
            f"{LB}.localityLbSetting.distribute[1].from",
            "must not overlap",
            id="DR-34-from",
        ),
        pytest.param(
            policy("outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}"),
            f"{LB}.localityLbSetting.failover[0].to",
            "another region",
            id="DR-36",
        ),
        pytest.param(
            policy("outlierDetection: {}, loadBalancer: {zoneAwareLbSetting: {failover: [{from: a, to: b/c}]}}"),
            f"{LB}.zoneAwareLbSetting.failover[0].to",
            "a region alone",
            id="DR-36-zone",
        ),
        pytest.param(
            policy(
                "outlierDetection: {}, loadBalancer: {zoneAwareLbSetting: "
                "{failoverPriority: ['topology.istio.io/subzone=a']}}",
            ),
            f"{LB}.zoneAwareLbSetting.failoverPriority[0]",
            "a label of the topology",
            id="DR-37",
        ),
        pytest.param(
            policy("loadBalancer: {zoneAwareLbSetting: {minClusterSize: 0}}"),
            f"{LB}.zoneAwareLbSetting.minClusterSize",
            "at least 1",
            id="DR-38",
        ),
        pytest.param(policy("loadBalancer: {warmup: {}}"), f"{LB}.warmup.duration", "is required", id="DR-39"),
        pytest.param(
            policy("loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}"),
            f"{LB}.warmup.minimumPercent",
            "got 101",
            id="DR-40",
        ),
        pytest.param(
            policy("loadBalancer: {warmup: {duration: 1s, aggression: 0}}"),
            f"{LB}.warmup.aggression",
            "more than 0",
            id="DR-41",
        ),
        pytest.param(
            policy("tls: {mode: SIMPLE, credentialName: 'configmap://a'}"),
            f"{P}.tls.credentialName",
            "configmap://namespace/name",
            id="DR-42",
        ),
        pytest.param(
            policy("tls: {mode: SIMPLE, credentialName: 'configmap://other/a'}"),
            f"{P}.tls.credentialName",
            "own namespace shop",
            id="DR-42-namespace",
        ),
        pytest.param(
            policy("tls: {mode: SIMPLE, insecureSkipVerify: true, credentialName: a}"),
            f"{P}.tls.credentialName",
            "verifies nothing",
            id="DR-43",
        ),
        pytest.param(
            policy("tls: {mode: MUTUAL, credentialName: a, insecureSkipVerify: true, subjectAltNames: [a]}"),
            f"{P}.tls.subjectAltNames",
            "verifies nothing",
            id="DR-44",
        ),
        pytest.param(
            policy("tls: {mode: SIMPLE, credentialName: a, caCrl: /a}"),
            f"{P}.tls.caCrl",
            "beside credentialName",
            id="DR-45",
        ),
        pytest.param(
            policy("tls: {mode: MUTUAL, clientCertificate: /a}"),
            f"{P}.tls.privateKey",
            "is required for MUTUAL",
            id="DR-46",
        ),
        pytest.param(
            policy("retryBudget: {percent: 101}"), f"{P}.retryBudget.percent", "at most 100, got 101", id="DR-47"
        ),
        pytest.param(
            policy("loadBalancer: {simple: RANDOM, consistentHash: {}}"),
            f"{LB}.consistentHash",
            "only one of simple, consistentHash",
            id="DR-47-one-of",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {useSourceIp: false, httpHeaderName: a}}"),
            f"{LB}.consistentHash.useSourceIp",
            "only one of",
            id="DR-47-key",
        ),
    ],
)
def test_what_is_refused(spec: str, field: str, message: str) -> None:
    ((place, text),) = faults("DestinationRule", spec, "error")
    assert place == field
    assert message in text


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param("host: a\nworkloadSelector: {}", "spec.workloadSelector", "names no labels", id="SEL-4"),
        pytest.param(
            policy("outlierDetection: {consecutiveErrors: 1}"),
            f"{P}.outlierDetection.consecutiveErrors",
            "is deprecated",
            id="DR-14",
        ),
        pytest.param(
            policy("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 1}}"),
            f"{LB}.consistentHash.minimumRingSize",
            "is deprecated",
            id="DR-26",
        ),
        pytest.param(
            policy("loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}"),
            f"{LB}.localityLbSetting",
            "only with outlierDetection",
            id="DR-35",
        ),
        pytest.param(
            policy("portLevelSettings: [{port: {number: 80}, tls: {}}, {port: {number: 80}, tls: {}}]"),
            f"{P}.portLevelSettings[1].port.number",
            "no effect",
            id="same-port",
        ),
    ],
)
def test_what_is_warned_about(spec: str, field: str, message: str) -> None:
    assert faults("DestinationRule", spec, "error") == []
    ((place, text),) = faults("DestinationRule", spec, "warning")
    assert place == field
    assert message in text


@pytest.mark.parametrize("place", ["minimumRingSize: %s", "ringHash: {minimumRingSize: %s}"])
def test_a_ring_is_no_larger_than_envoy_takes(place: str) -> None:
    spec = "host: a\ntrafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, %s}}}"
    assert faults("DestinationRule", spec % (place % 8388608), "error") == []
    ((field, message),) = faults("DestinationRule", spec % (place % 8388609), "error")
    assert field.endswith("minimumRingSize")
    assert message == "must be at most 8388608, got 8388609"
