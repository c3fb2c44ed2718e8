"""What was decoded comes out equal when it is written and decoded again (assurance 6), for every kind."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lateen.api.base import FrozenMap, Object, Origin, ResourceKey, Spec
from lateen.api.decode import decode_documents
from lateen.api.encode import encode_object, encode_value
from lateen.api.frozen import freeze
from lateen.api.kinds import KINDS, kind_info
from lateen.api.scalars import DurationRule
from lateen.api.shape import Faults, decode_struct, struct_fields
from lateen.api.yaml_source import parse_yaml

DEPTH = 4  # of structs in structs, from which on optional ones are left away
# JSON text is YAML but for a few characters: controls, line ends of Unicode, halves of surrogates.
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "), max_size=6)
SCALARS = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | TEXT
FREE = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=5
)


def values(tp: Any, depth: int, meta: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Return everything that a field of type `tp` can hold."""
    origin = get_origin(tp)
    limits = [entry for entry in meta if isinstance(entry, msgspec.Meta)]
    least = max((limit.min_length or 0 for limit in limits), default=0)
    if origin is Annotated:
        inner, *more = get_args(tp)
        return values(inner, depth, (*meta, *more))
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(tp) if member is not type(None)]
        struct = isinstance(members[0], type) and issubclass(members[0], Spec)
        if struct and depth >= DEPTH:
            return st.none()
        present = st.one_of(*(values(member, depth, meta) for member in members))
        return st.none() | present if type(None) in get_args(tp) else present
    if origin is Literal:
        return st.sampled_from(get_args(tp))
    if origin is tuple:
        most = 0 if depth >= DEPTH else 2
        inner = values(get_args(tp)[0], depth)
        return st.lists(inner, min_size=least, max_size=max(most, least)).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        key, entry = get_args(tp)
        keys = st.integers(0, 99999) if key is int else TEXT
        return st.dictionaries(keys, values(entry, depth), max_size=2).map(FrozenMap)
    if tp is Any:
        return FREE.map(freeze)
    if tp is str:
        return TEXT.filter(lambda text: len(text) >= least)
    if tp is bool:
        return st.booleans()
    if tp is int:
        low = max((limit.ge for limit in limits if limit.ge is not None), default=-(2**31))
        high = min((limit.le for limit in limits if limit.le is not None), default=2**31 - 1)
        return st.integers(int(low), int(high))
    if tp is float:
        low = max((limit.ge for limit in limits if limit.ge is not None), default=-1e9)
        high = min((limit.le for limit in limits if limit.le is not None), default=1e9)
        return st.floats(low, high, allow_nan=False).filter(math.isfinite)
    if tp is bytes:
        return st.binary(max_size=5)
    if tp is timedelta:
        free = any(isinstance(entry, DurationRule) and entry.free for entry in meta)
        return st.integers(0 if free else 1, 10**9).map(lambda n: timedelta(microseconds=n if free else n * 1000))
    return structs(tp, depth + 1)


@cache
def structs(struct: type[Spec], depth: int = 0) -> st.SearchStrategy[Any]:
    """Return everything that a struct can be, one-of groups kept."""
    fields = {field.name: values(field.type, depth) for field in struct_fields(struct)}
    defaults = {field.name: field.default for field in struct_fields(struct)}

    def build(given: dict[str, Any]) -> Any:
        for group in struct.ONE_OF:
            for name in [name for name in group if given[name] != defaults[name]][1:]:
                given[name] = defaults[name]
        return struct(**given)

    return st.fixed_dictionaries(fields).map(build)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_every_struct_survives_being_written(kind: str, data: st.DataObject) -> None:
    info = kind_info(kind)
    assert info is not None
    value = data.draw(structs(info.spec))
    plain = encode_value(value)
    (document,), told = parse_yaml(json.dumps({"spec": plain}, ensure_ascii=False).encode())
    faults: Faults = []
    assert told == ()
    assert document.value["spec"] == plain
    assert decode_struct(info.spec, document.value["spec"], None, faults) == value
    assert faults == []
    assert isinstance(hash(value), int)


def test_a_resource_survives_being_written() -> None:
    text = """
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata:
  name: reviews
  namespace: shop
  labels: {app: reviews}
  annotations: {team.test/owner: "yes"}
  creationTimestamp: 2026-01-01T00:00:00Z
spec:
  host: reviews
  trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1500ms, idleTimeout: 0s}}, tls: {}}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: bookinfo-reviews}
automountServiceAccountToken: false
"""
    (rule, account) = decode_documents(text.encode(), "f").objects
    assert encode_object(rule) == {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "DestinationRule",
        "metadata": {
            "name": "reviews",
            "namespace": "shop",
            "labels": {"app": "reviews"},
            "annotations": {"team.test/owner": "yes"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "host": "reviews",
            "trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": "1500ms", "idleTimeout": "0s"}}, "tls": {}},
            "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
        },
    }
    assert encode_object(account) == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "bookinfo-reviews", "namespace": "default"},
        "automountServiceAccountToken": False,
    }
    for obj in (rule, account):
        again = decode_documents(json.dumps(encode_object(obj)).encode(), "g")
        assert again.problems == ()
        assert again.objects == (obj,)


def test_what_was_made_without_a_file_is_written_too() -> None:
    info = kind_info("Namespace")
    assert info is not None
    obj = Object(key=ResourceKey("Namespace", "", "shop"), api_version="v1", spec=info.spec(), origin=Origin("", 0))
    assert encode_object(obj) == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}, "spec": {}}
