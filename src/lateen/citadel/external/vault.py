"""HashiCorp Vault's PKI engine, and OpenBao's, which is the same.

In:  an order. Out: PEM from `sign/<role>` (leaf) or `root/sign-intermediate` (intermediate).
HTTP API: POST /v1/<mount>[/issuer/<ref>]/sign/<role>, /v1/<mount>/root/sign-intermediate or
/v1/<mount>/issuer/<ref>/sign-intermediate, GET /v1/<mount>/cert/ca_chain or /v1/<mount>/issuer/<ref>; headers
X-Vault-Token, X-Vault-Namespace, X-Vault-Request. `data.certificate`, `data.ca_chain[]`, `data.issuing_ca` come back.

A role takes the names from the call (`use_csr_sans=false`) or from the CSR (`true`, the default): both work, as agents'
CSRs carry their identity; an Istio client without one needs the former.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec

from lateen.api.base import Spec
from lateen.citadel.external.https import MAX_SHOWN, HttpsClient, parse_server
from lateen.citadel.external.interface import Context, ExternalAuthority, Order, Profile
from lateen.citadel.external.vault_auth import MountPath, Session, Text, VaultAuth, check_vault_auth
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.fetch.exchange import Answer

__all__ = ["Vault", "VaultParameters"]

LONGEST_LOOK_SECONDS: Final = 60.0  # the token's lease is looked at this often, whatever its length
SOONEST_LOOK_SECONDS: Final = 1.0
_MARK: Final = "-----BEGIN CERTIFICATE-----"


class VaultParameters(Spec, frozen=True, kw_only=True):
    """Where the Vault is, what signs there, and who we are."""

    address: Text  # https://vault.example:8200
    ca_file: Text | None = None  # whom to trust for its TLS; None: the system's roots
    server_name: str = ""  # in its certificate, where that is not the host of the address
    namespace: Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[\x21-\x7e]*\Z")] = ""
    mount: MountPath = "pki"
    issuer: Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[A-Za-z0-9_.-]*\Z")] = ""  # "": the mount's default
    role: Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[A-Za-z0-9_.-]*\Z")] = ""  # for leaves
    auth: VaultAuth


class Vault(ExternalAuthority):
    """One PKI mount of one Vault."""

    Parameters = VaultParameters
    profiles: ClassVar[frozenset[Profile]] = frozenset({"leaf", "intermediate"})

    def __init__(
        self, parameters: VaultParameters, context: Context, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parameters = parameters
        self._trust_domain = context.trust_domain
        self._http = HttpsClient(
            parse_server(parameters.address),
            ca_file=context.path(parameters.ca_file) if parameters.ca_file is not None else None,
            server_name=parameters.server_name,
            concurrency=context.concurrency + 1,  # renewing the token must not wait behind orders
            timeout_seconds=context.timeout.total_seconds(),
        )
        self._session = Session(parameters.auth, context, self._call, clock)
        self._mount = f"{parameters.mount}/issuer/{parameters.issuer}" if parameters.issuer else parameters.mount

    @staticmethod
    def check(parameters: VaultParameters, profile: Profile) -> Iterator[tuple[str, str]]:
        """Yield (field, fault) of parameters whose shape is right."""
        try:
            parse_server(parameters.address)
        except BadInput as error:
            yield "address", str(error)
        yield from check_vault_auth(parameters.auth, "auth")
        if profile == "leaf" and not parameters.role:
            yield "role", "is required in mode leaf: the role of the PKI engine that signs"

    async def sign(self, order: Order) -> bytes:
        csr = order.csr.decode("ascii")
        ttl = f"{int(order.lifetime.total_seconds())}s"
        if order.profile == "intermediate":
            issuer = "" if self._parameters.issuer else "/root"
            answer = await self._as_us("POST", f"{self._mount}{issuer}/sign-intermediate", self._authority(csr, ttl))
        else:
            body = {
                "csr": csr,
                "uri_sans": str(order.spiffe_id),
                "alt_names": ",".join(order.dns_names),
                "exclude_cn_from_sans": True,
                "ttl": ttl,
                "format": "pem",
            }
            answer = await self._as_us("POST", f"{self._mount}/sign/{self._parameters.role}", body)
        data = answer.get("data") or {}
        return "\n".join(_chain(data)).encode()

    async def roots(self) -> bytes | None:
        """Return the self-signed end of the issuer's chain; None when the Vault does not have it."""
        path = self._mount if self._parameters.issuer else f"{self._mount}/cert/ca_chain"
        data = (await self._as_us("GET", path, None)).get("data") or {}
        chain = data.get("ca_chain") or data.get("certificate") or ""
        pem = "\n".join(chain) if isinstance(chain, list) else str(chain)
        last = pem.rfind(_MARK)
        return pem[last:].strip().encode() + b"\n" if last >= 0 else None

    async def run(self) -> None:
        """Keep the token alive while nobody orders anything."""
        while True:
            seconds = min(max(self._session.due_in(), SOONEST_LOOK_SECONDS), LONGEST_LOOK_SECONDS)
            await asyncio.sleep(seconds)
            try:
                await self._session.token()
            except LateenError:
                # Told by the next order; a Vault that is away has to be asked again either way.
                await asyncio.sleep(LONGEST_LOOK_SECONDS / 4)

    def describe(self) -> Mapping[str, str]:
        shown = {
            "address": str(self._http.server),
            "mount": self._mount,
            "role": self._parameters.role,
            "namespace": self._parameters.namespace,
            "auth": self._session.method,
        }
        return {name: value for name, value in shown.items() if value}

    def _authority(self, csr: str, ttl: str) -> dict[str, Any]:
        return {
            "csr": csr,
            "common_name": f"Lateen {self._trust_domain}"[:64],
            "organization": self._trust_domain[:64],
            "exclude_cn_from_sans": True,
            "use_csr_values": False,
            "max_path_length": 0,  # it signs workloads, no further authorities
            "ttl": ttl,
            "format": "pem",
        }

    async def _as_us(self, method: str, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Call with our token; once more with a new one when it is not taken any longer."""
        token = await self._session.token()
        try:
            return await self._call(method, path, token, body)
        except _Denied:
            self._session.drop(token)
        fresh = await self._session.token()
        return await self._call(method, path, fresh, body)

    async def _call(self, method: str, path: str, token: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if token:
            headers["X-Vault-Token"] = token
        if self._parameters.namespace:
            headers["X-Vault-Namespace"] = self._parameters.namespace
        data = json.dumps(body).encode() if body is not None else b""
        response = await self._http.request(method, f"/v1/{path}", headers=headers, body=data)
        secrets = [
            token,
            *(str(value) for key, value in (body or {}).items() if key in ("secret_id", "role_id", "jwt")),
        ]
        answer = _read(response, path, [secret for secret in secrets if secret])
        auth = answer.get("auth")
        return auth if isinstance(auth, dict) else answer


class _Denied(Refused):
    """403: the token is not taken, or may not do this."""


def _read(response: Answer, path: str, secrets: list[str]) -> dict[str, Any]:
    """Return the JSON of a success; raise what the status means. Status codes: Vault's HTTP API, "Status codes"."""
    try:
        answer = json.loads(response.body) if response.body else {}
    except (ValueError, RecursionError):
        answer = None
    if response.status in (200, 204) and isinstance(answer, dict):
        return answer
    errors = answer.get("errors") if isinstance(answer, dict) else None
    told = "; ".join(" ".join(str(error).split()) for error in errors) if isinstance(errors, list) else ""
    for secret in secrets:
        told = told.replace(secret, "***")
    message = f"{path}: status {response.status}" + (f": {told[:MAX_SHOWN]}" if told else "")
    if response.status == 403:
        raise _Denied(message)
    if response.status in (400, 404, 405, 412, 422):
        raise Refused(message)
    # 429, 5xx (503: sealed), redirects of a standby, and success without JSON, which no Vault sends.
    raise Unavailable(message)


def _chain(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the certificate, then its issuers. `ca_chain` lacks or has the root, as the engine was set up."""
    certificate = data.get("certificate")
    if not isinstance(certificate, str):
        raise Unavailable("the answer has no certificate")
    yield certificate
    issuers = data.get("ca_chain") or [data.get("issuing_ca")]
    yield from (issuer for issuer in issuers if isinstance(issuer, str) and issuer != certificate)
