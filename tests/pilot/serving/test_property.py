"""Incremental equals from-scratch for Pilot: after any changes every proxy is served what a new Pilot would serve.

Byte for byte, for sidecars with and without capture, of two namespaces, and a gateway; over all kinds that act.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies.mend import accepted
from tests.strategies.mesh import RUNNING, SmallMesh, base, workloads
from tests.strategies.resources import KINDS, resource

from lateen.api.base import Object, ResourceKey
from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable

EXAMPLES = int(os.environ.get("LATEEN_PROPERTY_EXAMPLES", "12"))
MESH = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  outboundTrafficPolicy: {mode: %s}
  accessLogFile: "%s"
  extensionProviders: [{name: ask, envoyExtAuthzGrpc: {service: %s, port: 80}}]
"""
FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: one, namespace: %s}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {context: %s}
    patch: {operation: MERGE, value: {connect_timeout: %s}}
  - applyTo: HTTP_ROUTE
    match: {context: %s}
    patch: {operation: MERGE, value: {response_headers_to_remove: [%s]}}
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s, namespace: %s}
spec: {%s%s, rules: [{to: [{operation: {%s}}]}]}
"""
NAMESPACES = ("default", "other", "istio-system")
SELECTORS = (
    "",
    "selector: {matchLabels: {app: web}}, ",
    "selector: {matchLabels: {app: web, version: v2}}, ",
    "selector: {matchLabels: {istio: gateway}}, ",
    "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], ",
)
ACTIONS = ("action: ALLOW", "action: DENY", "action: CUSTOM, provider: {name: ask}")
ASKED = ("web.default.svc.cluster.local", "api.other.svc.cluster.local", "nobody.test")
CONTEXTS = ("ANY", "SIDECAR_OUTBOUND", "SIDECAR_INBOUND", "GATEWAY")


def written(text: str) -> Object:
    (obj,) = decode_documents(text.encode(), "written.yaml").objects
    return obj


@st.composite
def settings_object(draw: st.DrawFn) -> Object:
    """Return a MeshConfig, a policy or an EnvoyFilter, which the strategies of the other kinds do not draw."""
    what = draw(st.sampled_from(("mesh", "policy", "filter")))
    if what == "mesh":
        mode = draw(st.sampled_from(("ALLOW_ANY", "REGISTRY_ONLY")))
        return written(MESH % (mode, draw(st.sampled_from(("", "/dev/stdout"))), draw(st.sampled_from(ASKED))))
    if what == "policy":
        choices = ("ab", NAMESPACES, SELECTORS, ACTIONS, ("methods: [GET]", "paths: [/a]"))
        return written(POLICY % tuple(draw(st.sampled_from(choice)) for choice in choices))
    where = draw(st.sampled_from(("default", "istio-system")))
    context, other = draw(st.sampled_from(CONTEXTS)), draw(st.sampled_from(CONTEXTS))
    return written(FILTER % (where, context, draw(st.sampled_from(("1s", "2s"))), other, draw(st.sampled_from("ab"))))


Step = tuple[str, Any]


def step() -> st.SearchStrategy[Step]:
    drawn = resource(KINDS).map(accepted).filter(lambda obj: obj is not None)
    put = (drawn | drawn | drawn | settings_object()).map(lambda obj: ("put", obj))
    return st.one_of(
        put,
        put,
        st.integers(0, 9).map(lambda number: ("delete", number)),
        st.integers(0, 3).map(lambda number: ("delete base", number)),
        st.sampled_from(RUNNING[:4]).map(lambda row: ("stop", row[0])),
        st.sampled_from(RUNNING[:4]).map(lambda row: ("start", row[0])),
        st.sampled_from(RUNNING[:4]).map(lambda row: ("not ready", row[0])),
    )


class World:
    """A small mesh that changes, and what it should be by now."""

    def __init__(self) -> None:
        self.mesh = SmallMesh()
        self.mesh.connect()
        self.objects: dict[ResourceKey, Object] = {obj.key: obj for obj in base()}
        self.running: dict[str, Workload] = {workload.name: workload for workload in workloads()}
        self.known = dict(self.running)

    def apply(self, batch: list[Step]) -> None:
        changes: dict[ResourceKey, Object | None] = {}
        moved: dict[str, Workload | None] = {}
        for what, value in batch:
            match what:
                case "put":
                    changes[value.key] = value
                case "delete":
                    keys = sorted(self.objects.keys() - {obj.key for obj in base()})
                    if keys:
                        changes[keys[value % len(keys)]] = None
                case "delete base":
                    changes[base()[value].key] = None
                case "stop":
                    moved[value] = None
                case "start":
                    moved[value] = self.known[value]
                case "not ready":
                    moved[value] = _not_ready(self.known[value])
        for key, obj in changes.items():
            if obj is None:
                self.objects.pop(key, None)
            else:
                self.objects[key] = obj
        for name, workload in moved.items():
            if workload is None:
                self.running.pop(name, None)
            else:
                self.running[name] = workload
        self.mesh.pilot.apply([Change(key, obj) for key, obj in changes.items()], moved)

    def fresh(self) -> SmallMesh:
        """Return a new mesh of the same resources, given in another order."""
        other = SmallMesh([], running=[], with_base=False, vips=VipTable(self.mesh.pilot.vips.table()))
        objects = [self.objects[key] for key in sorted(self.objects, reverse=True)]
        other.pilot.apply([Change(obj.key, obj) for obj in objects], dict(sorted(self.running.items())))
        other.connect()
        return other


def _not_ready(workload: Workload) -> Workload:
    return dataclasses.replace(workload, ready=False)


def served(mesh: SmallMesh, running: Collection[str]) -> dict[tuple[str, str, str], str]:
    """Return the version of each resource of the proxies that run: of one that is gone no view is known."""
    return {
        (proxy, type_url, resource.name): resource.version
        for proxy, type_url, resource in mesh.served()
        if proxy in running
    }


@pytest.mark.timeout(120 + EXAMPLES * 5)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(step(), min_size=1, max_size=3), min_size=2, max_size=5))
def test_what_is_served_is_what_a_new_pilot_would_serve(batches: list[list[Step]]) -> None:
    world = World()
    for batch in batches:
        world.apply(batch)
        list(world.mesh.served())  # asked for in between, so that everything has been live
    fresh = world.fresh()
    mine, theirs = served(world.mesh, world.running), served(fresh, world.running)
    assert mine.keys() == theirs.keys()
    assert {key: (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]} == {}
    assert sorted(map(str, world.mesh.pilot.problems())) == sorted(map(str, fresh.pilot.problems()))
