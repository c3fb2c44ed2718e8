"""What a scope holds for what it serves stays until nothing that is served needs it."""

from __future__ import annotations

from lateen.pilot.serving.held import Held
from lateen.pilot.serving.slices import NamedSlice
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import ECDS


def test_what_was_named_before_is_held_until_the_change_is_served() -> None:
    forgotten: list[str] = []
    extensions = NamedSlice(ECDS, lambda name: Resource(name, "1", b""), forgotten.append)
    held = Held()
    held.hold(extensions, "", ("lua", "limit"))
    held.hold(extensions, "", ("limit", "other"))
    # A proxy that was just told of the listener with "lua" may ask for it only now.
    assert set(extensions.all()) == {"lua", "limit", "other"}
    held.let_go()
    assert (set(extensions.all()), forgotten) == ({"limit", "other"}, ["lua"])


def test_what_comes_back_before_it_is_served_stays() -> None:
    forgotten: list[str] = []
    extensions = NamedSlice(ECDS, lambda name: Resource(name, "1", b""), forgotten.append)
    held = Held()
    held.hold(extensions, "", ("lua",))
    held.hold(extensions, "", ())
    held.hold(extensions, "", ("lua",))
    held.let_go()
    assert (set(extensions.all()), forgotten) == ({"lua"}, [])
