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
    assert set(union.all()) == {"a", "b"}  # served until it is told
    delta = union.take_delta()
    assert delta is not None
    assert (delta.changed, delta.removed) == ((), ("a", "b"))
    assert union.all() == {}


def test_of_two_parts_with_one_name_the_smaller_stands_in_any_order() -> None:
    for order in ((1, 2), (2, 1)):
        union = UnionSlice("t")
        for part in order:
            union.set_part(part, (resource("a", str(part)),))
        union.take_delta()
        assert union.all() == {"a": resource("a", "1")}
        union.set_part(1, ())
        union.take_delta()
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


def test_what_is_staged_is_not_served_until_it_is_chosen() -> None:
    union = UnionSlice("t")
    union.set_part(1, (resource("a"), resource("b")))
    union.take_delta()
    union.set_part(1, (resource("a", "2"), resource("c")))
    assert dict(union.staged()) == {"a": resource("a", "2"), "b": None, "c": resource("c")}
    assert union.all() == {"a": resource("a"), "b": resource("b")}
    asked = []

    def keep_the_last(name: str, wanted: Resource | None, served: Resource | None) -> Resource | None:
        asked.append((name, wanted, served))
        return served if name == "a" else wanted

    delta = union.take_delta(keep_the_last)
    assert delta is not None
    assert (delta.changed, delta.removed) == ((resource("c"),), ("b",))
    assert asked == [
        ("a", resource("a", "2"), resource("a")),
        ("b", None, resource("b")),
        ("c", resource("c"), None),
    ]
    assert union.all() == {"a": resource("a"), "c": resource("c")}


def test_a_named_resource_that_must_be_judged_first_comes_as_a_change() -> None:
    waiting: list[str] = []
    named = NamedSlice("t", resource, lambda name: None, enter=lambda name, _: waiting.append(name))  # type: ignore[func-returns-value]
    assert named.get("a") is None
    assert waiting == ["a"]
    assert list(named.staged()) == [("a", resource("a"))]
    delta = named.take_delta()
    assert delta is not None
    assert delta.changed == (resource("a"),)
    assert named.get("a") == resource("a")
