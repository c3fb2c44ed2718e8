"""The two APIs of a Kubernetes API server that matter here, over TLS. It is no Kubernetes: that one cannot be had here.

certificates.k8s.io/v1 CertificateSigningRequests: create, get, delete, update of `approval`, with the checks that the
documentation names (signer name, usages, 600 s at least, an immutable spec, resource versions), and a signer that acts
on what is approved, as a controller in a cluster would, after `delay` polls.
authentication.k8s.io/v1 TokenReviews: what a Vault asks about a Pod's token.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import secrets
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of
from tests.fakes.signing import CsrSigner, Lie

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
USAGES = {
    "signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
    "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
    "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
    "microsoft sgc", "netscape sgc",
}  # fmt: skip

Verdict = dict[str, Any]  # what the signer puts into `status`


@dataclass
class KubeApi:
    """A server in threads. Its signer is `root`, or what `decide` says."""

    folder: Path
    root: CsrSigner = field(default_factory=lambda: CsrSigner("cluster signer"))
    token: str = "tok-" + "k" * 20
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)  # every request that was ever made
    deleted: list[str] = field(default_factory=list)
    accounts: dict[str, str] = field(default_factory=dict)  # token of a Pod -> "namespace:account"
    lie: Lie | None = None
    decide: Callable[[dict[str, Any]], Verdict | None] | None = None
    delay: int = 1  # polls of an approved request that are answered without a certificate
    change: Callable[[dict[str, Any]], None] | None = None  # an admission webhook
    fail_with: int = 0  # a status for everything

    def __post_init__(self) -> None:
        authority = StrangeAuthority()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.certify(key, names=[x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        self.ca_file = self.folder / "kube-ca.pem"
        self.ca_file.write_bytes(authority.root_pem)
        self.token_file = self.folder / "kube-token"
        self.token_file.write_text(self.token + "\n")
        pair = self.folder / "kube-tls.pem"
        pair.write_bytes(pem_of(certificate) + key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # ---- the API

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, dict[str, Any]]:
        if self.fail_with:
            return _status(self.fail_with, "InternalError", "the server is not well")
        if path == REVIEWS and method == "POST":
            return self._review(body)
        if token != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        if path == REQUESTS and method == "POST":
            return self._create(body)
        name, _, sub = path.removeprefix(REQUESTS + "/").partition("/")
        with self._lock:
            held = self.requests.get(name)
            if held is None:
                return _status(404, "NotFound", f'certificatesigningrequests "{name}" not found')
            if method == "GET" and not sub:
                self._sign(held)
                return 200, held
            if method == "DELETE" and not sub:
                del self.requests[name]
                self.deleted.append(name)
                return 200, {"kind": "Status", "status": "Success"}
            if method == "PUT" and sub == "approval":
                return self._approve(held, body)
        return _status(405, "MethodNotAllowed", f"{method} {path}")

    def _create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        problem = _problem(body)
        if problem:
            return _status(422, "Invalid", problem)
        name = body["metadata"]["name"]
        with self._lock:
            if name in self.requests:
                return _status(409, "AlreadyExists", f'certificatesigningrequests "{name}" already exists')
            made = {**body, "metadata": {**body["metadata"], "uid": secrets.token_hex(8), "resourceVersion": "1"}}
            made["status"] = {}
            if self.change is not None:
                self.change(made)
            self.requests[name] = made
            self.seen.append(json.loads(json.dumps(made)))
            return 201, made

    def _approve(self, held: dict[str, Any], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["metadata"].get("resourceVersion") != held["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", "the object has been modified")
        if body["spec"] != held["spec"]:
            return _status(422, "Invalid", "spec: Forbidden: is immutable")
        conditions = body.get("status", {}).get("conditions", [])
        if any(not condition.get("type") or condition.get("status") != "True" for condition in conditions):
            return _status(422, "Invalid", "status.conditions: Approved must have status True")
        held["status"]["conditions"] = conditions
        held["metadata"]["resourceVersion"] = str(int(held["metadata"]["resourceVersion"]) + 1)
        held["polls"] = 0
        return 200, held

    def _sign(self, held: dict[str, Any]) -> None:
        kinds = [condition["type"] for condition in held["status"].get("conditions", [])]
        if "Approved" not in kinds or "certificate" in held["status"] or len(kinds) > 1:
            return
        held["polls"] += 1
        if held["polls"] <= self.delay:
            return
        spec = held["spec"]
        if self.decide is not None:
            verdict = self.decide(spec)
            held["status"].update(verdict or {})
            return
        csr = base64.b64decode(spec["request"])
        leaf = self.root.sign(csr, timedelta(seconds=spec["expirationSeconds"]), self.lie)
        held["status"]["certificate"] = base64.b64encode(pem_of(leaf)).decode()

    def _review(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        account = self.accounts.get(body["spec"]["token"])
        status: dict[str, Any] = {"authenticated": False, "error": "unknown token"}
        if account is not None:
            namespace, name = account.split(":")
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
            user = {"username": f"system:serviceaccount:{account}", "uid": f"uid-{name}", "groups": groups}
            status = {"authenticated": True, "user": user, "audiences": body["spec"].get("audiences", [])}
        return 201, {**body, "status": status}


def denied(kind: str, reason: str, message: str) -> Verdict:
    """Return the status of a request that was decided against."""
    return {
        "conditions": [
            {"type": "Approved", "status": "True"},
            {"type": kind, "status": "True", "reason": reason, "message": message},
        ]
    }


def _problem(body: dict[str, Any]) -> str:
    spec = body.get("spec", {})
    if body.get("apiVersion") != "certificates.k8s.io/v1" or body.get("kind") != "CertificateSigningRequest":
        return "apiVersion, kind: not a CertificateSigningRequest"
    if "/" not in spec.get("signerName", "") or "." not in spec["signerName"].partition("/")[0]:
        return "spec.signerName: Invalid value: must be a fully qualified domain and path"
    if not spec.get("usages") or not set(spec["usages"]) <= USAGES:
        return "spec.usages: Unsupported value"
    if spec.get("expirationSeconds", 600) < 600:
        return "spec.expirationSeconds: Invalid value: may not specify a duration less than 600 seconds"
    try:
        csr = x509.load_pem_x509_csr(base64.b64decode(spec["request"], validate=True))
    except (KeyError, ValueError):
        return "spec.request: Invalid value: PEM block type must be CERTIFICATE REQUEST"
    return "" if csr.is_signature_valid else "spec.request: Invalid value: signature"


def _status(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}


def _handler(api: KubeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ssl.SSLError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are kept, not printed."""

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = self.path.partition("?")[0]
            code, answer = api.answer(self.command, path, self.headers.get("authorization", ""), body)
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _serve

    return Handler
