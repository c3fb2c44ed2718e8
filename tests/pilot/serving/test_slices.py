"""Slices: parts that come and go, resources on demand, and exactly what a batch changed."""

from __future__ import annotations

from lateen.pilot.serving.slices import NamedSlice, UnionSlice
from lateen.pilot.xds.source import Resource


def resource(name: str, version: str = "1") -> Resource:
    return Resource(name, version, f"{name}@{version}".encode())


def test_a_union_tells_what_changed_in_the_end() -> None:
    union = UnionSlice("t")
    union.set_part(1, (resource("a"), resource("b")))
    delta = union.take_delta()
    assert delta is not None
    assert ([r.name for r in delta.changed], delta.removed) == (["a", "b"], ())
    union.set_part(1, ())
    union.set_part(1, (resource("a"), resource("b", "2")))
    delta = union.take_delta()
    assert delta is not None
    assert delta.changed == (resource("b", "2"),)
    union.set_part(1, (resource("a"), resource("b", "2")))
    assert union.take_delta() is None
    union.set_part(1, ())
    delta = union.take_delta()
    assert delta is not None
    assert (delta.changed, delta.removed) == ((), ("a", "b"))
    assert union.all() == {}


def test_of_two_parts_with_one_name_the_smaller_stands_in_any_order() -> None:
    for order in ((1, 2), (2, 1)):
        union = UnionSlice("t")
        for part in order:
            union.set_part(part, (resource("a", str(part)),))
        assert union.all() == {"a": resource("a", "1")}
        union.set_part(1, ())
        assert union.all() == {"a": resource("a", "2")}


def test_a_named_resource_is_made_once_and_let_go_with_its_last_holder() -> None:
    made, forgotten = [], []

    def demand(name: str) -> Resource | None:
        made.append(name)
        return resource(name) if name != "none" else None

    named = NamedSlice("t", demand, forgotten.append)
    assert named.get("a") == named.get("a") == resource("a")
    assert named.get("none") is None
    named.changed("a", resource("a", "2"))
    named.changed("other", resource("other"))
    delta = named.take_delta()
    assert delta is not None
    assert delta.changed == (resource("a", "2"),)
    named.changed("none", resource("none"))
    named.changed("a", None)
    delta = named.take_delta()
    assert delta is not None
    assert (delta.changed, delta.removed) == ((resource("none"),), ("a",))
    named.release("a")
    assert forgotten == []
    named.release("a")
    assert (made, forgotten) == (["a", "none"], ["a"])
