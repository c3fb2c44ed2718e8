"""The root on disk: made once, kept for good; anything wrong with it is an error that names the file."""

import os
import stat
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from tests.fakes.certs import START, StrangeAuthority, key_pem, pem_of, uri

from lateen.citadel.store import CERTIFICATE_FILE, KEY_FILE, load_or_create_root
from lateen.citadel.template import build_root
from lateen.errors import BadInput
from lateen.wire.files import write_atomically


def load(folder: Path, later: timedelta = timedelta(0)) -> tuple[object, bool]:
    return load_or_create_root(folder, "cluster.local", START + later, lambda: 7)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mode, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    load(tmp_path / "state" / "ca")
    return tmp_path / "state" / "ca"


def test_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "ca"
    first, created = load_or_create_root(folder, "cluster.local", START, lambda: 7)
    assert created
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        KEY_FILE: 0o600,
        CERTIFICATE_FILE: 0o600,
    }
    before = contents(folder)
    second, created = load_or_create_root(folder, "other.domain", START + timedelta(days=900), lambda: 8)
    assert not created
    assert second.certificate == first.certificate
    assert second.key.private_numbers() == first.key.private_numbers()  # type: ignore[union-attr]
    assert contents(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        load(tmp_path / "ca")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "ca" / KEY_FILE).stat().st_mode) == 0o600


def test_an_empty_folder_gets_a_root(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir(mode=0o755)
    assert load(tmp_path / "ca")[1]
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_two_that_start_at_once_get_the_same_root(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    roots = []

    def start() -> None:
        barrier.wait()
        roots.append(load_or_create_root(tmp_path / "ca", "cluster.local", START, lambda: os.getrandom(8)[0] + 1))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({material.certificate.fingerprint(hashes.SHA256()) for material, _ in roots}) == 1
    assert [created for _, created in roots].count(True) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "ca"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes, mode: int = 0o600) -> None:
        if path.name == CERTIFICATE_FILE:
            raise OSError(28, "no space left on device")
        write_atomically(path, data, mode)

    monkeypatch.setattr("lateen.citadel.store.write_atomically", full)
    with pytest.raises(OSError, match="no space left"):
        load(tmp_path / "ca")
    assert list(tmp_path.iterdir()) == []


OTHER = ec.generate_private_key(ec.SECP256R1())
STRANGE = StrangeAuthority(now=START)


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: write_atomically(folder / name, data)


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: write_atomically(folder / name, (folder / name).read_bytes()[:-80])


def _chmod(name: str, mode: int) -> Callable[[Path], None]:
    return lambda folder: os.chmod(folder / name, mode)


def _encrypted() -> bytes:
    how = serialization.BestAvailableEncryption(b"secret")
    return OTHER.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def _weak_root() -> bytes:
    key = ec.generate_private_key(ec.SECP256K1())
    return pem_of(build_root(key.public_key(), "x", START, 1).sign(key, hashes.SHA256()))


@pytest.mark.parametrize(
    ("spoil", "file", "message"),
    [
        pytest.param(
            lambda f: os.unlink(f / KEY_FILE), KEY_FILE, "is missing though ca-cert.pem is there", id="no-key"
        ),
        pytest.param(
            lambda f: os.unlink(f / CERTIFICATE_FILE),
            CERTIFICATE_FILE,
            "is missing though ca-key.pem is there",
            id="no-certificate",
        ),
        pytest.param(
            lambda f: [os.unlink(f / KEY_FILE), os.rename(f / CERTIFICATE_FILE, f / "audit.jsonl")],
            KEY_FILE,
            "is missing though its folder is not empty",
            id="neither",
        ),
        pytest.param(_write(KEY_FILE, b""), KEY_FILE, "cannot be read as a private key", id="empty-key"),
        pytest.param(_cut(KEY_FILE), KEY_FILE, "cannot be read as a private key", id="cut-key"),
        pytest.param(_write(KEY_FILE, b"k" * 100_000), KEY_FILE, "more than 65536 bytes", id="huge-key"),
        pytest.param(_write(KEY_FILE, _encrypted()), KEY_FILE, "is encrypted", id="encrypted-key"),
        pytest.param(
            _write(KEY_FILE, key_pem(ed25519.Ed25519PrivateKey.generate())), KEY_FILE, "another type", id="ed25519-key"
        ),
        pytest.param(_write(KEY_FILE, key_pem(OTHER)), KEY_FILE, "halves of two different roots", id="mismatch"),
        pytest.param(_chmod(KEY_FILE, 0o640), KEY_FILE, "mode 0640 lets others in, 0600 wanted", id="key-mode"),
        pytest.param(_chmod("", 0o755), "", "mode 0755 lets others in, 0700 wanted", id="folder-mode"),
        pytest.param(_write(CERTIFICATE_FILE, b""), CERTIFICATE_FILE, "certificate", id="empty-certificate"),
        pytest.param(_cut(CERTIFICATE_FILE), CERTIFICATE_FILE, "cannot be read", id="cut-certificate"),
        pytest.param(
            _write(CERTIFICATE_FILE, b"c" * 100_000), CERTIFICATE_FILE, "more than 65536", id="huge-certificate"
        ),
        pytest.param(_write(CERTIFICATE_FILE, STRANGE.root_pem * 2), CERTIFICATE_FILE, "got 2", id="two-certificates"),
        pytest.param(
            _write(CERTIFICATE_FILE, pem_of(STRANGE.certify(OTHER, names=[uri("spiffe://x/ns/a/sa/b")]))),
            CERTIFICATE_FILE,
            "no certificate of an authority",
            id="leaf",
        ),
        pytest.param(
            _write(CERTIFICATE_FILE, pem_of(STRANGE.certify(OTHER, names=(), authority=True))),
            CERTIFICATE_FILE,
            "not signed by its own key",
            id="signed-by-another",
        ),
        pytest.param(_write(CERTIFICATE_FILE, _weak_root()), CERTIFICATE_FILE, "curve secp256k1", id="weak-curve"),
    ],
)
def test_what_is_wrong_is_named_and_left_alone(
    folder: Path, spoil: Callable[[Path], object], file: str, message: str
) -> None:
    spoil(folder)
    before = contents(folder)
    with pytest.raises(BadInput, match=message) as caught:
        load(folder)
    assert str(folder / file) in str(caught.value)
    assert contents(folder) == before


def test_expired(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(BadInput, match="expired at 2036-05-29") as caught:
        load(folder, timedelta(days=3650))
    assert str(folder / CERTIFICATE_FILE) in str(caught.value)
    assert contents(folder) == before


def test_not_yet_valid(folder: Path) -> None:
    with pytest.raises(BadInput, match="is this machine's clock right") as caught:
        load(folder, timedelta(days=-1))
    assert str(folder / CERTIFICATE_FILE) in str(caught.value)


def test_a_damaged_key_is_in_no_traceback(folder: Path) -> None:
    secret = (folder / KEY_FILE).read_bytes()
    _cut(KEY_FILE)(folder)
    with pytest.raises(BadInput) as caught:
        load(folder)
    frames = caught.tb
    while frames.tb_next is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    report = traceback.TracebackException(type(caught.value), caught.value, frames, capture_locals=True)
    shown = "".join(report.format())
    assert "load_root" in shown
    for line in secret.splitlines()[1:-1]:
        assert line.decode()[:20] not in shown
