"""Keys of JWT-SVIDs: a token is believed for as long as it lives, whoever asked for the bundle when."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.fakes.certs import START, ManualClock

from lateen.citadel.jwt_authority import JwtAuthority
from lateen.citadel.jwt_keys import AHEAD, BEHIND, EVERY, MAX_LIFETIME, KeyFolder, plan_keys
from lateen.errors import BadInput, LateenError, Refused
from lateen.wire.jwt_svid import validate_jwt_svid
from lateen.wire.spiffe import SpiffeId

WEB = SpiffeId("a.example", "shop", "web")
HOUR = timedelta(hours=1)


def authority(tmp_path: Path, clock: ManualClock) -> JwtAuthority:
    return JwtAuthority(tmp_path / "jwt", "a.example", clock=clock)


def signer(of: JwtAuthority) -> str:
    plan = of._plan.signs
    assert plan is not None
    return plan.id


def test_a_token_says_who_for_whom_and_how_long(tmp_path: Path) -> None:
    clock = ManualClock()
    jwts = authority(tmp_path, clock)
    issued = jwts.issue(WEB, ["db", "cache"])
    svid = validate_jwt_svid(issued.token, "db", {"a.example": jwts.public_keys}, START.timestamp())
    assert svid.spiffe_id == str(WEB)
    assert svid.audience == ("db", "cache")
    assert svid.expires == (START + timedelta(minutes=5)).timestamp()
    assert svid.claims["jti"] == issued.id
    assert issued.token not in repr(issued)


@pytest.mark.parametrize(
    ("identity", "audience", "lifetime", "error"),
    [
        (SpiffeId("b.example", "shop", "web"), ["db"], None, Refused),
        (WEB, [], None, BadInput),
        (WEB, ["x"] * 3 + [""], None, BadInput),
        (WEB, ["db"], MAX_LIFETIME + timedelta(seconds=1), BadInput),
        (WEB, ["db"], timedelta(0), BadInput),
        (WEB, ["db"], -HOUR, BadInput),
    ],
)
def test_what_is_not_issued(
    tmp_path: Path, identity: SpiffeId, audience: list[str], lifetime: timedelta | None, error: type[LateenError]
) -> None:
    with pytest.raises(error):
        authority(tmp_path, ManualClock()).issue(identity, audience, lifetime)


def test_every_token_is_verified_by_a_bundle_of_an_hour_ago_while_keys_rotate(tmp_path: Path) -> None:
    clock = ManualClock()
    changes: list[int] = []
    jwts = authority(tmp_path, clock)
    jwts.on_keys = lambda: changes.append(len(jwts.public_keys))
    signers, most = set(), 0
    bundles = [jwts.public_keys] * 2  # of an hour and of half an hour ago
    tokens: list[tuple[str, float]] = []
    for _ in range(2 * 24 * 4):
        clock.advance(HOUR / 2)
        token = jwts.issue(WEB, ["db"], MAX_LIFETIME)
        tokens.append((token.token, clock.now.timestamp()))
        # Issued now: who looked an hour ago believes it. Issued up to an hour ago: who looks now does.
        validate_jwt_svid(token.token, "db", {"a.example": bundles[-2]}, clock.now.timestamp())
        for older, moment in tokens[-2:]:
            validate_jwt_svid(older, "db", {"a.example": jwts.public_keys}, moment + 3599)
        bundles.append(jwts.public_keys)
        signers.add(signer(jwts))
        most = max(most, len(jwts.public_keys))
    assert len(signers) == 4  # one a day
    assert most == 2
    assert len(list((tmp_path / "jwt").iterdir())) == len(jwts.public_keys) <= 2
    assert len(changes) >= 6  # each key came, and each old one went


def test_keys_stay_over_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    first = authority(tmp_path, clock)
    clock.advance(timedelta(minutes=1))
    assert authority(tmp_path, clock).public_keys.keys() == first.public_keys.keys()


def test_a_machine_that_slept_for_days_goes_on_with_a_key_that_is_known(tmp_path: Path) -> None:
    clock = ManualClock()
    jwts = authority(tmp_path, clock)
    known = signer(jwts)
    clock.advance(timedelta(days=9))
    jwts.issue(WEB, ["db"])
    assert signer(jwts) == known
    assert len(jwts.public_keys) == 2
    clock.advance(AHEAD)
    jwts.rotate()
    assert signer(jwts) != known
    assert known in jwts.public_keys
    clock.advance(BEHIND)
    jwts.rotate()
    assert known not in jwts.public_keys
    assert EVERY > AHEAD + BEHIND  # else more than two keys were told at a time


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    authority(tmp_path, ManualClock())
    folder = tmp_path / "jwt"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


@pytest.mark.parametrize("fault", ["mode", "folder", "damaged", "rsa", "curve", "name"])
def test_what_must_not_be_used_is_named(tmp_path: Path, fault: str) -> None:
    authority(tmp_path, ManualClock())
    folder = tmp_path / "jwt"
    (path,) = folder.iterdir()

    def write(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    match fault:
        case "mode":
            path.chmod(0o640)
        case "folder":
            folder.chmod(0o750)
        case "damaged":
            path.write_bytes(path.read_bytes()[:-60])
        case "rsa":
            write(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        case "curve":
            write(ec.generate_private_key(ec.SECP384R1()))
        case "name":
            path = path.rename(folder / "mine.pem")
    secret = path.read_bytes().splitlines()[1].decode()
    with pytest.raises(BadInput, match=str(folder)) as caught:
        authority(tmp_path, ManualClock())
    assert secret not in str(caught.value)
    assert fault == "folder" or str(path) in str(caught.value)


def test_a_folder_that_cannot_be_written_leaves_the_old_key_signing(tmp_path: Path) -> None:
    clock = ManualClock()
    jwts = authority(tmp_path, clock)
    known = signer(jwts)
    (tmp_path / "jwt").rename(tmp_path / "elsewhere")
    clock.advance(EVERY)
    jwts.issue(WEB, ["db"])
    assert signer(jwts) == known


def test_no_keys_want_one(tmp_path: Path) -> None:
    plan = plan_keys([], START)
    assert plan.wants_another
    assert plan.signs is None
    made = KeyFolder(tmp_path)
    one, two = made.make(START), made.make(START)
    assert two.made > one.made
    assert "PRIVATE" not in repr(one)
