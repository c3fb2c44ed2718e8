"""Roots in force: self-signed, plugged in, replaced while running, after every restart, and left alone when faulty."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.fakes.certs import START, ManualClock, p256_csr, pem_of
from tests.fakes.pki import DAY, Link, crl_of, make_link, plug, swap

from lateen.citadel.roots import Roots
from lateen.citadel.rotation import Facts, Phase, Waiting
from lateen.citadel.store import RootWish
from lateen.errors import BadInput, Refused
from lateen.wire.spiffe import SpiffeId

TD = "cluster.local"
AWAY = Facts(untrusting=(Waiting("a", "away"),))
ME = SpiffeId(TD, "a", "b")


class World:
    """One state folder, opened again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.plugged: Path | None = None
        self.wish = RootWish()
        self.steps: list[str] = []

    def open(self) -> Roots:
        roots = Roots.open(self.folder / "ca", TD, plugged=self.plugged, wish=self.wish, clock=self.clock, log=Quiet())
        roots.on_step = self.steps.append
        roots.issued_until = lambda: START + timedelta(hours=1)  # what `signer_of` has issued
        return roots

    def link(self, name: str, above: Link | None = None, **fields: Any) -> Link:
        return make_link(name, above, now=self.clock.now, **fields)

    def plug(self, way: list[Link], believed: list[Link]) -> None:
        self.plugged = self.folder / "plugged"
        plug(self.plugged, way, believed)


class Quiet:
    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def signer_of(roots: Roots) -> x509.Certificate:
    """Return the certificate that has signed a leaf that is issued now."""
    issued = roots.authority.issue(p256_csr(), ME, timedelta(hours=1))
    leaf = x509.load_pem_x509_certificate(issued.leaf)
    signer = roots.signing.certificate
    leaf.verify_directly_issued_by(signer)
    return signer


def believed(roots: Roots) -> set[x509.Certificate]:
    return set(x509.load_pem_x509_certificates(roots.authority.root_pem))


@pytest.mark.parametrize(
    ("kind", "size"), [("p256", 256), ("p384", 384), ("rsa2048", 2048), ("rsa4096", 4096)], ids=lambda v: str(v)
)
def test_self_signed_roots_of_every_kind(world: World, kind: str, size: int) -> None:
    world.wish = RootWish(kind, timedelta(days=30))
    roots = world.open()
    root = signer_of(roots)
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    assert key.key_size == size
    assert root.not_valid_after_utc - START == timedelta(days=30)
    assert signer_of(world.open()) == root


def test_a_kind_that_is_none(world: World) -> None:
    with pytest.raises(BadInput, match="key of the root: one of p256, p384, rsa2048, rsa4096 wanted, got 'rsa1024'"):
        RootWish("rsa1024")


def test_a_root_is_replaced_over_restarts_at_every_step(world: World) -> None:
    roots = world.open()
    old = signer_of(roots)
    roots.rotate("asked for")
    roots.advance(AWAY)
    for _ in range(2):
        assert roots.state.phase is Phase.DISTRIBUTING
        assert signer_of(roots) == old
        assert len(believed(roots)) == 2
        roots = world.open()
        roots.advance(AWAY)
    (new,) = believed(roots) - {old}
    roots.advance(Facts())
    for _ in range(2):
        assert roots.state.phase is Phase.REISSUING
        assert signer_of(roots) == new
        assert believed(roots) == {old, new}
        roots = world.open()
        roots.advance(Facts())
    world.clock.advance(timedelta(hours=1))  # the last old certificate expires
    roots.advance(Facts())
    for _ in range(2):
        assert roots.state.phase is Phase.STEADY
        assert signer_of(roots) == new
        assert believed(roots) == {new}
        roots = world.open()
    assert not (world.folder / "ca" / "ca-key.pem").exists(), "the old root's key is gone"
    assert world.steps == ["rotation begins: asked for", "new root signs: asked for", "rotation done"]


def test_what_the_trail_knows_is_waited_for(world: World) -> None:
    roots = world.open()
    roots.issued_until = lambda: START + timedelta(hours=5)
    roots.rotate("asked for")
    roots.advance(Facts())
    assert roots.state.leaves_until == START + timedelta(hours=5)
    world.clock.advance(timedelta(hours=5) - timedelta(seconds=1))
    roots.advance(Facts())
    assert roots.state.phase is Phase.REISSUING


def test_aborted_at_either_step(world: World) -> None:
    roots = world.open()
    old = signer_of(roots)
    roots.rotate("asked for")
    roots.abort()
    assert believed(world.open()) == {old}
    roots = world.open()
    roots.rotate("again")
    roots.advance(Facts())
    new = signer_of(roots)
    roots.abort()
    for _ in range(2):
        assert signer_of(roots) == old
        assert believed(roots) == {old, new}
        roots = world.open()
    world.clock.advance(timedelta(hours=1))
    roots.advance(Facts())
    assert believed(world.open()) == {old}
    assert [entry.name for entry in (world.folder / "ca").iterdir() if entry.name.startswith("gen-")] == []


def test_a_self_signed_root_is_replaced_before_it_grows_old(world: World) -> None:
    world.wish = RootWish(lifetime=10 * DAY)
    roots = world.open()
    world.clock.advance(timedelta(days=7.99))
    roots.renew_if_due()
    assert roots.state.phase is Phase.STEADY
    world.clock.advance(timedelta(days=0.05))
    roots.renew_if_due()
    assert roots.state.phase is Phase.DISTRIBUTING
    assert roots.state.reason == "19 % of the root's life are left"
    roots.renew_if_due()
    roots.advance(Facts())
    assert signer_of(roots).not_valid_after_utc == world.clock.now + 10 * DAY


def test_who_goes_back_to_an_old_root_says_when_it_is_replaced(world: World) -> None:
    world.wish = RootWish(lifetime=10 * DAY)
    roots = world.open()
    world.clock.advance(9 * DAY)
    roots.renew_if_due()
    roots.abort()
    for again in (roots, world.open()):
        again.renew_if_due()
        assert again.state.phase is Phase.STEADY
    roots.rotate("asked for")
    assert roots.state.phase is Phase.DISTRIBUTING


def test_half_of_a_root_is_not_taken_for_a_new_mesh(world: World) -> None:
    world.open()
    (world.folder / "ca" / "ca-cert.pem").unlink()
    root = world.link("root")
    world.plug([root], [root])
    with pytest.raises(BadInput, match=r"ca-cert\.pem is missing though ca-key\.pem is there"):
        world.open()
    assert (world.folder / "ca" / "ca-key.pem").exists()


def test_a_mesh_may_begin_with_what_is_plugged_in(world: World) -> None:
    root = world.link("root")
    signer = world.link("signer", root)
    world.plug([signer], [root])
    roots = world.open()
    assert signer_of(roots) == signer.certificate
    assert believed(roots) == {root.certificate}
    assert world.plugged is not None
    shutil.rmtree(world.plugged)
    roots = world.open()  # what is in force stays
    assert signer_of(roots) == signer.certificate
    assert "No such file" in roots.problem


def test_another_intermediate_signs_at_once(world: World) -> None:
    root = world.link("root")
    world.plug([world.link("one", root)], [root])
    roots = world.open()
    path = roots.authority.signing_path
    assert world.plugged is not None
    other = world.link("two", root)
    swap(world.plugged, [other], [root])
    roots.look_at_plugged()
    assert roots.state.phase is Phase.STEADY
    assert signer_of(roots) == other.certificate
    assert roots.authority.signing_path != path
    assert signer_of(world.open()) == other.certificate


def test_other_roots_are_believed_before_they_sign(world: World) -> None:
    first, second = world.link("first"), world.link("second")
    world.plug([world.link("one", first)], [first])
    roots = world.open()
    before = signer_of(roots)
    assert world.plugged is not None
    signer = world.link("two", second)
    swap(world.plugged, [signer], [second])
    roots.look_at_plugged()
    roots.look_at_plugged()  # once is enough
    assert roots.state.phase is Phase.DISTRIBUTING
    roots = world.open()  # the folder holds the new ones only
    assert signer_of(roots) == before
    assert believed(roots) == {first.certificate, second.certificate}
    roots.advance(Facts())
    assert signer_of(roots) == signer.certificate
    world.clock.advance(timedelta(hours=1))
    roots.advance(Facts())
    assert believed(roots) == {second.certificate}


def test_from_self_signed_to_plugged_in_and_back(world: World) -> None:
    own = signer_of(world.open())
    root = world.link("root")
    world.plug([root], [root])
    roots = world.open()
    assert roots.state.phase is Phase.DISTRIBUTING
    assert believed(roots) == {own, root.certificate}
    roots.advance(Facts())
    world.clock.advance(timedelta(hours=1))
    roots.advance(Facts())
    assert believed(roots) == {root.certificate}
    with pytest.raises(Refused, match="put the new files there"):
        roots.rotate("asked for")
    world.plugged = None
    roots = world.open()
    assert signer_of(roots) == root.certificate
    roots.rotate("back")
    assert roots.state.phase is Phase.DISTRIBUTING


def test_more_roots_are_believed_and_fewer_later(world: World) -> None:
    first, second = world.link("first"), world.link("second")
    signer = world.link("one", first)
    world.plug([signer], [first])
    roots = world.open()
    assert world.plugged is not None
    swap(world.plugged, [signer], [first, second])
    roots.look_at_plugged()
    roots.advance(Facts(roots_leave=roots.roots_leave()))
    roots.advance(Facts(roots_leave=roots.roots_leave()))
    assert roots.state.phase is Phase.STEADY
    assert believed(roots) == {first.certificate, second.certificate}
    swap(world.plugged, [signer], [first])
    roots.look_at_plugged()
    roots.advance(Facts(roots_leave=roots.roots_leave()))
    roots.advance(Facts(roots_leave=roots.roots_leave(), unrenewed=(Waiting("a", "slow"),)))
    assert roots.state.phase is Phase.REISSUING
    assert believed(roots) == {first.certificate, second.certificate}


def test_revocation_lists_change_with_what_they_are_of(world: World) -> None:
    root = world.link("root")
    one, two = world.link("one", root), world.link("two", root)

    def lists(*links: Link, revoked: tuple[int, ...] = ()) -> bytes:
        return crl_of(root, revoked=revoked, now=world.clock.now) + b"".join(
            crl_of(link, now=world.clock.now) for link in links
        )

    world.plugged = world.folder / "plugged"
    plug(world.plugged, [one], [root], crl=lists(one))
    roots = world.open()
    assert roots.revoked.count(b"BEGIN X509 CRL") == 2
    # Newer lists of the same authorities act at once.
    plug(world.plugged, [one], [root], crl=lists(one, revoked=(77,)))
    roots.look_at_plugged()
    assert roots.state.phase is Phase.STEADY
    assert roots.revoked.count(b"BEGIN X509 CRL") == 2
    # Another authority signs once all proxies have its list; the one before keeps its own as long as it is met.
    plug(world.plugged, [two], [root], crl=lists(two))
    roots.look_at_plugged()
    assert roots.state.phase is Phase.DISTRIBUTING
    assert signer_of(roots) == one.certificate
    assert roots.revoked.count(b"BEGIN X509 CRL") == 4
    assert roots.roots_leave()
    roots.advance(Facts())
    assert signer_of(roots) == two.certificate
    assert world.open().revoked == roots.revoked
    world.clock.advance(timedelta(hours=1))
    roots.advance(Facts())
    assert roots.revoked.count(b"BEGIN X509 CRL") == 2
    # To one that keeps none: no lists while both are met, since there would be none of the new one.
    (world.plugged / "ca-crl.pem").unlink()
    plug(world.plugged, [world.link("three", root)], [root])
    roots.look_at_plugged()
    assert roots.state.phase is Phase.DISTRIBUTING
    assert roots.revoked == b""


def test_a_faulty_set_changes_nothing_and_is_told(world: World) -> None:
    root = world.link("root")
    signer = world.link("signer", root)
    world.plug([signer], [root])
    roots = world.open()
    assert world.plugged is not None
    (world.plugged / "root-cert.pem").write_bytes(pem_of(world.link("other").certificate))
    roots.look_at_plugged()
    assert str(world.plugged / "ca-cert.pem") in roots.problem
    assert "is not signed by any" in roots.problem
    assert signer_of(roots) == signer.certificate
    assert signer_of(world.open()) == signer.certificate
    (world.plugged / "root-cert.pem").write_bytes(pem_of(root.certificate))
    roots.look_at_plugged()
    assert roots.problem == ""


def test_a_faulty_set_at_the_very_start_is_an_error(world: World) -> None:
    root = world.link("root")
    world.plug([world.link("signer", root)], [root])
    assert world.plugged is not None
    (world.plugged / "ca-key.pem").unlink()
    with pytest.raises(BadInput, match=r"ca-key\.pem: is missing"):
        world.open()
    assert not (world.folder / "ca").exists()


def test_an_aborted_set_is_not_tried_again(world: World) -> None:
    own = signer_of(world.open())
    root = world.link("root")
    world.plug([root], [root])
    roots = world.open()
    roots.abort()
    roots.look_at_plugged()
    assert believed(roots) == {own}
    assert "was aborted" in roots.problem
    roots = world.open()
    assert believed(roots) == {own}
    other = world.link("other")
    assert world.plugged is not None
    swap(world.plugged, [other], [other])
    roots.look_at_plugged()
    assert believed(roots) == {own, other.certificate}


def test_files_that_are_put_back_end_the_rotation_to_those_taken_away(world: World) -> None:
    old, new = world.link("old"), world.link("new")
    world.plug([old], [old])
    roots = world.open()
    assert world.plugged is not None
    for _ in range(2):
        swap(world.plugged, [new], [new])
        roots.look_at_plugged()
        assert believed(roots) == {old.certificate, new.certificate}
        swap(world.plugged, [old], [old])
        roots.look_at_plugged()
        roots.advance(Facts())
        assert roots.state.phase is Phase.STEADY
        assert signer_of(roots) == old.certificate
        assert believed(roots) == {old.certificate}


def test_a_change_during_a_rotation(world: World) -> None:
    links = [world.link(f"root {n}") for n in range(3)]
    world.plug([links[0]], [links[0]])
    roots = world.open()
    assert world.plugged is not None
    for link in links[1:]:
        swap(world.plugged, [link], [link])
        roots.look_at_plugged()
    assert believed(roots) == {links[0].certificate, links[2].certificate}
    roots.advance(Facts())
    swap(world.plugged, [links[1]], [links[1]])
    roots.look_at_plugged()
    assert "waits until the rotation that is on has ended" in roots.problem
    assert signer_of(roots) == links[2].certificate
    world.clock.advance(timedelta(hours=1))
    roots.advance(Facts())
    assert roots.state.phase is Phase.DISTRIBUTING
    assert believed(roots) == {links[1].certificate, links[2].certificate}


def test_what_has_expired_gives_way(world: World) -> None:
    root = world.link("root")
    world.plug([world.link("short", root, life=timedelta(minutes=5))], [root])
    roots = world.open()
    issued = roots.authority.issue(p256_csr(), ME, timedelta(hours=24))
    assert issued.not_after == roots.signing.certificate.not_valid_after_utc
    world.clock.advance(timedelta(minutes=6))
    with pytest.raises(BadInput, match="expired at"):
        world.open()
    fresh = world.link("fresh", root)
    assert world.plugged is not None
    swap(world.plugged, [fresh], [root])
    assert signer_of(world.open()) == fresh.certificate


def test_a_rotation_whose_old_root_expires_is_over(world: World) -> None:
    world.wish = RootWish(lifetime=DAY)
    world.open()
    world.wish = RootWish(lifetime=10 * DAY)
    roots = world.open()
    roots.rotate("asked for")
    roots.advance(Facts())
    new = signer_of(roots)
    assert len(believed(world.open())) == 2
    world.clock.advance(DAY)
    roots = world.open()
    assert roots.state.phase is Phase.STEADY
    assert believed(roots) == {new}


@pytest.mark.parametrize("text", ["{", '{"signing": "gen-0123"}', '{"signing": "gen-../x"}'])
def test_a_damaged_state_is_told_and_not_repaired(world: World, text: str) -> None:
    world.open()
    (world.folder / "ca" / "rotation.json").write_text(text)
    with pytest.raises(BadInput, match=r"rotation\.json"):
        world.open()
    assert (world.folder / "ca" / "ca-key.pem").exists()


def test_a_crash_between_two_files_leaves_one_state_or_the_other(world: World, monkeypatch: Any) -> None:
    roots = world.open()
    old = signer_of(roots)
    monkeypatch.setattr("lateen.citadel.keystore.Keystore.put_state", _crash)
    with pytest.raises(OSError, match="power"):
        roots.rotate("asked for")
    monkeypatch.undo()
    roots = world.open()
    assert roots.state.phase is Phase.STEADY
    assert believed(roots) == {old}
    roots.rotate("again")
    assert len([e for e in (world.folder / "ca").iterdir() if e.name.startswith("gen-")]) == 1, "the rest is swept"


def test_a_first_start_that_crashes_is_done_over(world: World, monkeypatch: Any) -> None:
    root = world.link("root")
    signer = world.link("signer", root)
    world.plug([signer], [root])
    monkeypatch.setattr("lateen.citadel.keystore.Keystore.put_state", _crash)
    with pytest.raises(OSError, match="power"):
        world.open()
    monkeypatch.undo()
    kept = world.folder / "ca"
    (half,) = kept.iterdir()
    shutil.copytree(half, kept / f".{half.name}-x1")  # killed before the set was whole
    (kept / ".rotation.json.x2").write_bytes(b"{")
    assert signer_of(world.open()) == signer.certificate
    assert {entry.name for entry in kept.iterdir()} == {half.name, "rotation.json"}
    # What was in force and has lost its state is no new mesh.
    (kept / "rotation.json").unlink()
    other = world.link("other")
    assert world.plugged is not None
    swap(world.plugged, [other], [other])
    with pytest.raises(BadInput, match="is missing though its folder is not empty"):
        world.open()


def test_lists_that_ran_out_while_it_was_down_can_be_replaced(world: World) -> None:
    root = world.link("root")
    signer = world.link("signer", root)
    world.plug([signer], [root])
    assert world.plugged is not None
    plug(world.plugged, [signer], [root], crl=crl_of(root, now=START) + crl_of(signer, now=START))
    world.open()
    world.clock.advance(31 * DAY)
    roots = world.open()
    assert "out of date; put a newer one there" in roots.problem
    lists = crl_of(root, now=world.clock.now) + crl_of(signer, now=world.clock.now)
    plug(world.plugged, [signer], [root], crl=lists)
    roots = world.open()
    assert roots.problem == ""
    assert roots.revoked == lists


def test_an_old_root_that_expires_beside_others_ends_nothing(world: World) -> None:
    old, root = world.link("old", life=DAY), world.link("root")
    signer = world.link("signer", root)
    world.plug([signer], [old, root])
    roots = world.open()
    assert believed(roots) == {old.certificate, root.certificate}
    other = world.link("other", life=10 * DAY)
    assert world.plugged is not None
    swap(world.plugged, [other], [other])
    world.clock.advance(2 * DAY)
    roots = world.open()
    assert signer_of(roots) == signer.certificate, "nothing is signed by a root that nobody has proven to trust"
    assert roots.state.phase is Phase.DISTRIBUTING
    assert believed(roots) == {root.certificate, other.certificate}


def test_more_roots_than_two_sets_may_have_are_refused_and_leave_no_trace(world: World) -> None:
    root = world.link("root")
    many = [world.link(f"r{n}") for n in range(16)]
    world.plug([root], [root, *many])
    with pytest.raises(BadInput, match=r"root-cert\.pem: 17 roots, at most 16 wanted"):
        world.open()
    assert not (world.folder / "ca").exists()
    assert world.plugged is not None
    plug(world.plugged, [root], [root, *many[1:]])
    assert len(believed(world.open())) == 16
    others = [world.link(f"s{n}") for n in range(16)]
    plug(world.plugged, others[:1], others)
    assert len(believed(world.open())) == 32


def _crash(*_: object) -> None:
    raise OSError("power cut")
