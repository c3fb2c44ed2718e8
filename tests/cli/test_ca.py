"""`lateen ca`: every subcommand against a real control plane on its sockets."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from tests.fakes.pki import make_link, plug, swap

from lateen.cli import main
from lateen.pilot.serving.certificates import CertificateOptions
from lateen.pilot.serving.control_plane import ControlPlane, ControlPlaneOptions
from lateen.settings import Settings
from lateen.wire.svid import read_certificate


class Ca:
    """The commands on one state folder; what they print is read back."""

    def __init__(self, state: Path, capsys: Any) -> None:
        self.state = state
        self._capsys = capsys

    async def __call__(self, *words: str) -> str:
        code = await asyncio.to_thread(main, ["ca", "--state", str(self.state), *words])
        out, err = self._capsys.readouterr()
        assert code == 0, err
        # The control plane logs to the same output here.
        return "".join(line for line in str(out).splitlines(True) if not re.match(r"\d{4}-\S+ \S+ .{0,9}\[", line))

    async def fails(self, *words: str) -> str:
        code = await asyncio.to_thread(main, ["ca", "--state", str(self.state), *words])
        assert code == 1
        return str(self._capsys.readouterr().err)


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture
async def ca(state: Path, tmp_path: Path, capsys: Any) -> AsyncIterator[Ca]:
    root = make_link("their root")
    plug(tmp_path / "ca", [make_link("signer", root)], [root])
    options = ControlPlaneOptions(
        config=tmp_path,
        network="explicit",
        certificates=CertificateOptions(plugged=tmp_path / "ca", settle=timedelta(seconds=2)),
    )
    async with ControlPlane(Settings(state=state), options):
        capsys.readouterr()
        yield Ca(state, capsys)


async def test_what_signs_and_what_is_believed(ca: Ca, tmp_path: Path) -> None:
    report = json.loads(await ca("status", "-o", "json"))
    assert [(link["role"], link["subject"], link["key"]) for link in report["chain"]] == [
        ("signer", "CN=signer", "P-256"),
        ("root", "CN=their root", "P-256"),
    ]
    assert report["source"] == str(tmp_path / "ca")
    assert report["rotation"]["phase"] == "steady"
    text = await ca("status")
    for word in ("SIGNS", "CN=signer", "BELIEVED", "CN=their root", "0 of 0 workloads", "no rotation is on"):
        assert word in text
    (root,) = x509.load_pem_x509_certificates((await ca("root")).encode())
    assert root.subject.rfc4514_string() == "CN=their root"
    assert "PRIVATE" not in json.dumps(report)


async def test_a_certificate_for_an_identity_with_a_key_made_here(ca: Ca, tmp_path: Path) -> None:
    out = tmp_path / "batch"
    said = json.loads(await ca("issue", "jobs/nightly", "--out", str(out), "--ttl", "10m", "-o", "json"))
    summary = read_certificate((out / "cert-chain.pem").read_bytes())
    assert said["identity"] == str(summary.spiffe_id) == "spiffe://cluster.local/ns/jobs/sa/nightly"
    assert said["serial"] == summary.serial
    assert (out / "key.pem").stat().st_mode & 0o777 == 0o600
    ssl.create_default_context().load_cert_chain(out / "cert-chain.pem", out / "key.pem")  # they belong together
    leaf, *above = x509.load_pem_x509_certificates((out / "cert-chain.pem").read_bytes())
    roots = Store(x509.load_pem_x509_certificates((out / "root-cert.pem").read_bytes()))
    assert PolicyBuilder().store(roots).build_client_verifier().verify(leaf, above).chain[0] == leaf
    entries = json.loads(await ca("audit", "--serial", summary.serial, "-o", "json"))
    assert [(entry["event"], entry["identity"]) for entry in entries] == [("issued", said["identity"])]
    assert json.loads(await ca("audit", "--identity", "nobody", "-o", "json")) == []
    assert "jobs/sa/nightly" in await ca("audit", "--since", "1h", "--event", "issued", "-n", "5")


async def test_it_is_counted(ca: Ca, state: Path, tmp_path: Path, capsys: Any) -> None:
    await ca("issue", "jobs/nightly", "--out", str(tmp_path / "x"))
    await ca.fails("issue", "a/b", "--out", str(tmp_path / "x"), "--ttl", "400d")
    assert await asyncio.to_thread(main, ["metrics", "--state", str(state)]) == 0
    samples = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines() if line[:1].islower())
    assert samples["citadel_server_csr_count"] == "2"
    assert samples["citadel_server_success_cert_issuance_count"] == "1"
    assert samples["citadel_server_csr_sign_err_count"] == "1"
    assert samples["lateen_audit_lines_lost_total"] == "0"
    assert int(samples["citadel_server_root_cert_expiry_seconds"]) > 364 * 86400
    assert {f'lateen_ca_expiry_timestamp{{link="{link}"}}' for link in ("signer", "root", "believed")} <= samples.keys()
    assert samples['lateen_ca_rotation{phase="steady"}'] == "1"
    assert samples['lateen_trust_bundle_workloads{proven="true"}'] == "0"


async def test_what_is_not_issued(ca: Ca, tmp_path: Path) -> None:
    assert "of trust domain 'cluster.local', not spiffe://other/ns/a/sa/b; nothing was written" in await ca.fails(
        "issue", "spiffe://other/ns/a/sa/b", "--out", str(tmp_path / "x")
    )
    assert "TTL_ERROR" in await ca.fails("issue", "a/b", "--out", str(tmp_path / "x"), "--ttl", "400d")
    assert "NAMESPACE/SERVICE-ACCOUNT" in await ca.fails("issue", "ab", "--out", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    assert "refused" in await ca("audit", "--event", "refused")


async def test_other_roots_in_the_folder_are_rotated_to(ca: Ca, tmp_path: Path) -> None:
    other = make_link("their next root")
    swap(tmp_path / "ca", [other], [other])
    async with asyncio.timeout(10):
        while len(json.loads(await ca("root", "-o", "json"))) == 1:  # noqa: ASYNC110  # of files that are watched
            await asyncio.sleep(0.05)
    # Nobody runs who could have an old certificate but for the control plane itself.
    async with asyncio.timeout(10):
        while json.loads(await ca("rotate", "-o", "json"))["phase"] == "distributing":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await ca("rotate", "finish")
    assert json.loads(await ca("rotate", "--wait", "-o", "json"))["phase"] == "steady"
    assert "CN=their next root" in await ca("root", "-o", "table")
    events = json.loads(await ca("audit", "--event", "roots-changed", "-o", "json"))
    assert events[0]["reason"].startswith("rotation begins: ")


async def test_files_are_kept_fresh_through_a_rotation(ca: Ca, state: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    words = ["ca", "--state", str(state), "issue", "jobs/nightly", "--out", str(out), "--keep"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lateen", *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )

    async def until(fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not fact():  # of files of another process
                assert process.returncode is None
                await asyncio.sleep(0.05)

    def roots() -> int:
        return len(x509.load_pem_x509_certificates((out / "root-cert.pem").read_bytes()))

    try:
        await until(lambda: (out / "cert-chain.pem").exists())
        first = read_certificate((out / "cert-chain.pem").read_bytes()).serial
        assert roots() == 1
        other = make_link("their next root")
        swap(tmp_path / "ca", [other], [other])
        await until(lambda: roots() == 2)
        assert read_certificate((out / "cert-chain.pem").read_bytes()).serial == first  # both are believed before
        # The new root signs now, for nobody is waited for: the certificate is replaced though it is not half over.
        await until(lambda: read_certificate((out / "cert-chain.pem").read_bytes()).serial != first)
        leaf = x509.load_pem_x509_certificates((out / "cert-chain.pem").read_bytes())[0]
        leaf.verify_directly_issued_by(other.certificate)
        await ca("rotate", "finish")
        await until(lambda: roots() == 1)
    finally:
        process.terminate()
        await process.wait()


async def test_orders_that_are_refused(ca: Ca, state: Path, tmp_path: Path) -> None:
    assert "put the new files there" in await ca.fails("rotate", "root")
    assert "nothing to abort" in await ca.fails("rotate", "abort")
    assert "no rotation is on" in await ca("rotate")


async def test_without_a_control_plane(state: Path, capsys: Any) -> None:
    ca = Ca(state, capsys)
    assert "no control plane answers" in await ca.fails("status")
    assert "no control plane answers" in await ca.fails("issue", "a/b", "--out", str(state / "x"))
    assert await ca("audit") == "nothing in the trail\n"
