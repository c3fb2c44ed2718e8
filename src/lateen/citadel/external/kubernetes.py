"""Kubernetes CertificateSigningRequests: whoever signs for a signer name in the cluster signs for the mesh.

In:  an order for a leaf. Out: what `status.certificate` holds.
API: certificates.k8s.io/v1. Create, approve (unless somebody else does), poll until there is a certificate or a
condition Denied or Failed, delete in any case. The signer reads the CSR itself and copies its names, so a CSR that does
not carry the identity as its one name is refused here. `expirationSeconds` is a wish, 600 at least.

RBAC: create, get, delete of certificatesigningrequests; update of certificatesigningrequests/approval; `approve` on
signers of the signer's name.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import msgspec

from lateen.api.base import Spec
from lateen.citadel.external.https import MAX_SHOWN, HttpsClient, parse_server
from lateen.citadel.external.interface import Context, ExternalAuthority, Order, Profile
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.fetch.exchange import Answer

__all__ = ["KubernetesAuthority", "KubernetesParameters"]

REQUESTS: Final = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
USAGES: Final = ("digital signature", "key encipherment", "server auth", "client auth")
LEAST_LIFETIME: Final = timedelta(seconds=600)  # the API server refuses less
FIRST_POLL_SECONDS: Final = 0.05
LONGEST_POLL_SECONDS: Final = 1.0
DELETE_SECONDS: Final = 2.0  # of what is given up: objects left behind are deleted by the cluster after an hour

_POD: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
SignerName = Annotated[str, msgspec.Meta(max_length=571, pattern=r"^[a-z0-9.-]+\.[a-z0-9.-]+/[A-Za-z0-9._:-]+\Z")]


class KubernetesParameters(Spec, frozen=True, kw_only=True):
    """Which cluster, which signer, and who we are there. Defaults are those of a Pod."""

    server: Text = "https://kubernetes.default.svc"
    ca_file: Text = f"{_POD}/ca.crt"
    token_file: Text = f"{_POD}/token"
    signer_name: SignerName
    approve: bool = True  # False: somebody else approves, within the time-out


class KubernetesAuthority(ExternalAuthority):
    """One signer of one cluster."""

    Parameters = KubernetesParameters
    profiles: ClassVar[frozenset[Profile]] = frozenset({"leaf"})

    def __init__(self, parameters: KubernetesParameters, context: Context) -> None:
        self._parameters = parameters
        self._token_file: Path = context.path(parameters.token_file)
        self._http = HttpsClient(
            parse_server(parameters.server),
            ca_file=context.path(parameters.ca_file),
            concurrency=context.concurrency,
            timeout_seconds=context.timeout.total_seconds(),
        )
        self._clearing: set[asyncio.Task[None]] = set()

    @staticmethod
    def check(parameters: KubernetesParameters, profile: Profile) -> Iterator[tuple[str, str]]:
        """Yield (field, fault) of parameters whose shape is right."""
        try:
            server = parse_server(parameters.server)
        except BadInput as error:
            yield "server", str(error)
        else:
            if server.target.scheme != "https":
                yield "server", f"must be https, got {parameters.server!r}"

    async def sign(self, order: Order) -> bytes:
        if order.spiffe_id is None or not order.names_in_csr:
            raise BadInput(
                f"CSR has no names, and a Kubernetes signer takes them from nowhere else; wanted {order.spiffe_id}"
            )
        if order.lifetime < LEAST_LIFETIME:
            raise Refused(f"lifetime of {order.lifetime}, Kubernetes signs for {LEAST_LIFETIME} at least")
        name = f"lateen-{secrets.token_hex(10)}"
        try:
            made = await self._call("POST", REQUESTS, self._request(name, order))
            if self._parameters.approve:
                await self._approve(name, made, order)
            return await self._wait(name)
        finally:
            # Also when the order is given up; the object may not even have been made. Nobody waits for it.
            clearing = asyncio.create_task(self._delete(name), name=f"delete {name}")
            self._clearing.add(clearing)
            clearing.add_done_callback(self._clearing.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._clearing)

    def describe(self) -> Mapping[str, str]:
        return {"address": str(self._http.server), "signerName": self._parameters.signer_name}

    def _request(self, name: str, order: Order) -> dict[str, Any]:
        return {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "lateen"}},
            "spec": {
                "request": base64.b64encode(order.csr).decode("ascii"),
                "signerName": self._parameters.signer_name,
                "expirationSeconds": int(order.lifetime.total_seconds()),
                "usages": list(USAGES),
            },
        }

    async def _approve(self, name: str, made: dict[str, Any], order: Order) -> None:
        """Approve what was just made, if it is still what was asked for: an admission webhook may have changed it."""
        spec = made.get("spec")
        wanted = self._request(name, order)["spec"]
        if not isinstance(spec, dict) or any(
            spec.get(key) != wanted[key] for key in ("request", "signerName", "usages")
        ):
            raise Refused(f"{name} came back changed from the API server, so it is not approved")
        condition = {
            "type": "Approved",
            "status": "True",
            "reason": "LateenAuthenticated",
            "message": f"Citadel has established that the key's holder is {order.spiffe_id}",
        }
        approved = {**made, "status": {"conditions": [condition]}}
        await self._call("PUT", f"{REQUESTS}/{name}/approval", approved)

    async def _wait(self, name: str) -> bytes:
        """Return the certificate once there is one; the caller's time-out ends the wait."""
        pause = FIRST_POLL_SECONDS
        while True:
            status = (await self._call("GET", f"{REQUESTS}/{name}", None)).get("status")
            certificate = _verdict(name, status if isinstance(status, dict) else {})
            if certificate is not None:
                return certificate
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)

    async def _delete(self, name: str) -> None:
        try:
            await asyncio.wait_for(self._call("DELETE", f"{REQUESTS}/{name}", None), DELETE_SECONDS)
        except (LateenError, TimeoutError):
            return  # gone, never made, or left to the cluster's own clearing

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        token = self._read_token()
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else b""
        return _read(await self._http.request(method, path, headers=headers, body=data), token)

    def _read_token(self) -> str:
        # Read for each call: the kubelet replaces it. A projected token's mode lets the Pod's processes read it.
        try:
            text = self._token_file.read_bytes()[:65536].decode("ascii").strip()
        except OSError as error:
            raise Unavailable(f"{self._token_file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            text = ""
        if not text or not text.isprintable():
            raise Unavailable(f"{self._token_file}: one line of text wanted")
        return text


def _verdict(name: str, status: Mapping[str, Any]) -> bytes | None:
    """Return the certificate, None while there is no decision. Raises `Refused` for Denied and Failed."""
    conditions = status.get("conditions")
    for condition in conditions if isinstance(conditions, list) else []:
        if isinstance(condition, dict) and condition.get("type") in ("Denied", "Failed"):
            why = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
            raise Refused(f"{name} is {condition['type']}" + (f": {why[:MAX_SHOWN]}" if why else ""))
    text = status.get("certificate")
    if not text:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Unavailable(f"{name}: status.certificate is no base64 text") from error


def _read(response: Answer, token: str) -> dict[str, Any]:
    try:
        answer = json.loads(response.body)
    except (ValueError, RecursionError):
        answer = None
    if response.status in (200, 201, 202) and isinstance(answer, dict):
        return answer
    told = answer.get("message") if isinstance(answer, dict) else None
    message = f"status {response.status}" + (f": {str(told).replace(token, '***')[:MAX_SHOWN]}" if told else "")
    if response.status in (400, 401, 403, 404, 405, 409, 422):
        raise Refused(message)
    raise Unavailable(message)
