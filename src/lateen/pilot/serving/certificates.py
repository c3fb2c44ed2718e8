"""Citadel inside of the control plane: authority, audit trail, who may ask, the signing service, its own identity.

Entering opens what needs opening, leaving closes it. `control_plane` enters it first, adds `handlers()` to the server
of the local socket and takes `server_credentials()` for the sockets with mutual TLS; what belongs to certificates and
to nothing else is put together here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import structlog
from cryptography import x509

from lateen.api.base import Problem
from lateen.citadel.audit import AuditEntry, AuditLog, audit_time, read_audit
from lateen.citadel.authenticate import Authenticator, LocalTrust
from lateen.citadel.authority import Authority, IssuedChain, utc_now
from lateen.citadel.join_tokens import JoinTokens
from lateen.citadel.jwt_authority import JwtAuthority
from lateen.citadel.jwt_service import JwtService
from lateen.citadel.material import material_files
from lateen.citadel.roots import Roots
from lateen.citadel.server_identity import ServerIdentity
from lateen.citadel.service import DEFAULT_LIFETIME, CertificateService, Issuer, Lifetimes
from lateen.citadel.store import RootWish
from lateen.errors import BadInput, Refused
from lateen.pilot.serving.bundle_endpoint import (
    BundleEndpoint,
    BundleEndpointOptions,
    FileCertificate,
    OwnCertificate,
    Sequence,
)
from lateen.pilot.serving.expiry import root_problems
from lateen.pilot.serving.external import Elsewhere, RootsElsewhere
from lateen.pilot.serving.federation import Federation
from lateen.pilot.serving.root_service import RootService
from lateen.pilot.serving.trust import Proxies
from lateen.settings import Settings
from lateen.wire.join import JoinTokenCreated, JoinTokenRequest, pins_of
from lateen.wire.mixer import MIXER_ACCOUNT, MIXER_NAMESPACE
from lateen.wire.peer import peer_certificate
from lateen.wire.spiffe import SpiffeId
from lateen.wire.spiffe_bundle import Bundle, format_jwt_bundle
from lateen.wire.trust import TrustBundle, TrustUpdate

__all__ = ["CertificateOptions", "Certificates"]

log = structlog.get_logger(__name__)


SETTLE = timedelta(seconds=30)
JWT_KEYS_SECONDS = 60.0  # how often is looked whether the keys of JWT-SVIDs are to be rotated


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateOptions:
    """What `lateen up` is told about certificates."""

    trust_domain: str = "cluster.local"
    lifetime: timedelta | None = None  # default and maximum of workload certificates; None: Citadel's own
    bundle_endpoint: BundleEndpointOptions | None = None
    authority: Path | None = None  # file that names an authority elsewhere; None: Citadel signs by itself
    plugged: Path | None = None  # folder of a signing certificate and its roots; None: `cacerts` of the state, if any
    root: RootWish = field(default_factory=RootWish)  # of self-signed roots that are made
    settle: timedelta | None = None  # that new roots are believed at least before they sign; None: as others need

    @property
    def settle_time(self) -> timedelta:
        """How long new roots are believed at least before they sign: others have looked for them three times by then.

        Files are looked at every second (`lateen ca issue --keep`), a bundle endpoint as often as it asks for.
        """
        if self.settle is not None:
            return self.settle
        refresh = self.bundle_endpoint.refresh if self.bundle_endpoint is not None else timedelta(0)
        return max(SETTLE, 3 * refresh)


class Certificates:
    """All of Citadel in one control plane. Its attributes but the options exist once it is entered."""

    roots: Roots
    root_service: RootService
    authority: Authority
    audit: AuditLog
    authenticators: tuple[Authenticator, ...]
    service: CertificateService
    join_tokens: JoinTokens
    jwts: JwtAuthority
    jwt_service: JwtService
    server_identity: ServerIdentity

    def __init__(self, settings: Settings, options: CertificateOptions) -> None:
        self.settings = settings
        self.options = options
        self.turned_away_count = 0
        self.federation: Federation | None = None  # who else is believed
        self.elsewhere: Elsewhere | None = None  # who signs, where this process does not
        self._proxies: Proxies | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises `BadInput`, naming the file, for material that must not be used, and `OSError`."""
        async with contextlib.AsyncExitStack() as stack:
            await self._open_authority(stack)
            self._open(stack)
            await self._open_bundle_endpoint(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _open_authority(self, stack: contextlib.AsyncExitStack) -> None:
        """Set what signs, which roots are believed, and the certificate of the control plane itself."""
        settings, options = self.settings, self.options
        issuer: Issuer
        if options.authority is not None:
            folder = settings.authority_dir
            self.elsewhere = await Elsewhere.open(stack, options.authority, options.trust_domain, folder)
        if self.elsewhere is not None and self.elsewhere.issuer is not None:
            self.roots = RootsElsewhere(self.elsewhere, options.trust_domain, settings.ca_dir)
            self.authority = self.roots.authority
            self.server_identity = await self.elsewhere.server_identity(stack, self.authority, options.lifetime)
            issuer = self.elsewhere.issuer
        else:
            plugged = _plugged_folder(settings, options) if self.elsewhere is None else self.elsewhere.plugged
            self.roots = Roots.open(settings.ca_dir, options.trust_domain, plugged=plugged, wish=options.root)
            issuer = self.authority = self.roots.authority
            self.server_identity = (
                ServerIdentity(self.authority)
                if options.lifetime is None
                else ServerIdentity(self.authority, lifetime=options.lifetime)
            )
        self._issuer = issuer

    def _open(self, stack: contextlib.AsyncExitStack) -> None:
        settings, options = self.settings, self.options
        lifetime = options.lifetime
        self.audit = AuditLog(settings.state)
        stack.callback(self.audit.close)
        self.roots.on_step = self._root_step
        self.roots.issued_until = self._issued_until
        plugs_in = settings.plugged_dir if self.elsewhere is None else None
        self.root_service = RootService(self.roots, default=plugs_in, settle=options.settle_time)
        if self.elsewhere is not None:
            self.root_service.elsewhere = self.elsewhere.describe
        self.authenticators = (LocalTrust(options.trust_domain),)
        self.service = CertificateService(
            self._issuer,
            self.authenticators,
            lifetimes=Lifetimes() if lifetime is None else Lifetimes.exactly(lifetime),
            audit=self.audit,
        )
        self.join_tokens = JoinTokens(settings.join_tokens_file, trust_domain=options.trust_domain, audit=self.audit)
        self.jwts = JwtAuthority(settings.jwt_dir, options.trust_domain, on_keys=self.publish_trust)
        self.jwt_service = JwtService(self.jwts, self.authenticators, audit=self.audit)
        rooting = asyncio.create_task(self.root_service.run(), name="roots")
        stack.push_async_callback(_ended, rooting)
        rotating = asyncio.create_task(self._rotate_jwt_keys(), name="jwt keys")
        stack.push_async_callback(_ended, rotating)

    def create_join_token(self, wanted: JoinTokenRequest, listen: str) -> JoinTokenCreated:
        """Make a join token; `listen` is where it can be used. Raises `BadInput`, `Refused`, `Unavailable`."""
        identity = SpiffeId(self.options.trust_domain, wanted.namespace, wanted.service_account)
        try:
            lifetime = timedelta(seconds=wanted.lifetime_seconds)
        except OverflowError as error:
            raise BadInput(f"lifetime of {wanted.lifetime_seconds:g} s: {error}") from error
        token = self.join_tokens.create(identity, lifetime=lifetime, uses=wanted.uses)
        roots = "".join(self.authority.roots)
        pinned = replace(token, pins=pins_of(x509.load_pem_x509_certificates(roots.encode())))
        return JoinTokenCreated(info=self.join_tokens.info(token.name), text=pinned.text, roots=roots, listen=listen)

    @property
    def trust(self) -> TrustUpdate:
        """What every proxy is to be told of trust, as of now."""
        own = self.authority.roots
        keys = {self.options.trust_domain: self.jwts.public_keys}
        roots = {self.options.trust_domain: own}
        if self.federation is not None:
            roots = self.federation.roots(own)
            keys = {**self.federation.jwt_keys(), **keys}
        bundle = TrustBundle.of(roots)
        documents = tuple((domain, format_jwt_bundle(keys[domain]).decode()) for domain in sorted(keys))
        return TrustUpdate(bundle, self.roots.signing_path, documents, self.roots.revoked.decode("ascii"))

    def follow(self, proxies: Proxies) -> None:
        """Have proxies told what is believed, from now on, and rotations wait for them."""
        self.root_service.census = self._proxies = proxies
        self.roots.on_change = self.publish_trust
        self.publish_trust()

    def publish_trust(self) -> None:
        """Have every proxy told what `trust` is now; call it after anything in it has changed.

        Does not raise. What cannot be told is a problem, and until it can be no proxy counts as one that trusts it: a
        rotation stands still rather than sign by what nobody has heard of.
        """
        if self._proxies is None:
            return
        try:
            update = self.trust
        except BadInput as error:
            self._proxies.untold = str(error)
        else:
            self._proxies.untold = ""
            self._proxies.slice.put(update)

    async def sign_for_mixer(self, csr: bytes) -> IssuedChain:
        """Return a certificate for the Mixer of this control plane. Raises `LateenError`."""
        identity = SpiffeId(self.options.trust_domain, MIXER_NAMESPACE, MIXER_ACCOUNT)
        result = self._issuer.issue(csr, identity, self.options.lifetime or DEFAULT_LIFETIME)
        issued = await result if isinstance(result, Awaitable) else result
        entry = AuditEntry(
            time=audit_time(utc_now()),
            event="issued",
            identity=str(identity),
            source="control-plane",
            serial=issued.serial,
            not_after=audit_time(issued.not_after),
        )
        self.audit.append(entry)
        return issued

    def trust_for_mixer(self) -> tuple[bytes, frozenset[str]]:
        """Return the mesh's own roots, and the serials of certificates that are revoked."""
        return self.authority.root_pem, self.roots.revoked_serials()

    def _root_step(self, said: str) -> None:
        self.audit.append(AuditEntry(time=audit_time(utc_now()), event="roots-changed", reason=said))

    def _issued_until(self) -> datetime | None:
        """Return when the last certificate expires that the trail knows of."""
        issued = (entry.not_after for entry in read_audit(self.settings.state) if entry.event == "issued")
        latest = max(issued, default="")
        return datetime.fromisoformat(latest) if latest else None

    async def _open_bundle_endpoint(self, stack: contextlib.AsyncExitStack) -> None:
        options = self.options.bundle_endpoint
        if options is None:
            return
        if options.certificate is not None and options.key is not None:
            certificate: Callable[[], ssl.SSLContext] = FileCertificate(options.certificate, options.key)
        else:
            certificate = OwnCertificate(self.server_identity)
        endpoint = BundleEndpoint(options, self.spiffe_bundle, certificate, Sequence(self.settings.bundle_file))
        await endpoint.start()
        stack.push_async_callback(endpoint.stop)
        log.info(
            "bundle endpoint listens",
            address=options.address,
            port=options.port,
            profile=options.profile,
            spiffe_id=str(self.server_identity.spiffe_id) if options.certificate is None else "",
        )

    def spiffe_bundle(self) -> Bundle:
        """Return what identities of this trust domain are verified by."""
        return Bundle(roots=self.authority.roots, jwt_keys=self.jwts.public_keys)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what the server of the local socket answers about certificates."""
        return (self.service.handler(), self.jwt_service.handler(), self.root_service.handler())

    async def _rotate_jwt_keys(self) -> None:
        while True:
            await asyncio.sleep(JWT_KEYS_SECONDS)
            self.jwts.rotate()

    def problems(self) -> list[Problem]:
        """Return what is wrong with certificates now, for `lateen status`."""
        longest = self.options.lifetime or DEFAULT_LIFETIME
        federated = self.federation.problems() if self.federation is not None else []
        signing = self.elsewhere.problems() if self.elsewhere is not None else []
        found = [*federated, *signing, *self._audit_problems(), *root_problems(self.roots, longest_leaf=longest)]
        if self.root_service.fault:
            text = f"roots are not looked after, a rotation stands still: {self.root_service.fault}"
            found.append(Problem(str(self.settings.ca_dir), 0, "", text))
        if self._proxies is not None and self._proxies.untold:
            text = (
                f"proxies are not told whom to believe now, and go by what they were told last: {self._proxies.untold}"
            )
            return [*found, Problem("", 0, "", text)]
        trust = self.trust
        if trust.revoked and len(trust.bundle.roots) > 1:
            text = (
                "revocation lists do not act while other trust domains are believed: Envoy's check of several has none"
            )
            found.append(Problem(str(self.roots.plugged), 0, "", text, "warning"))
        return found

    def _audit_problems(self) -> list[Problem]:
        audit = self.audit
        if not audit.gap:
            return []
        text = (
            f"audit lines cannot be written: the last {audit.gap} are lost, {audit.lost} since the start; see the log"
        )
        return [Problem(str(audit.path), 0, "", text, "warning")]

    def check_client(self, context: Any) -> None:
        """Raise `Refused` for a call whose certificate is revoked: gRPC's own check of a handshake has no lists."""
        certificate = peer_certificate(context)
        if certificate is not None and self.roots.is_revoked(certificate):
            self.turned_away(f"client certificate {certificate.serial_number:x} is revoked")
            raise Refused("client certificate is revoked")

    def turned_away(self, reason: str) -> None:
        """Put into the trail that a connection was not let in."""
        self.turned_away_count += 1
        log.warning("connection refused", reason=reason)
        self.audit.append(AuditEntry(time=audit_time(utc_now()), event="turned-away", reason=reason))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a port that takes only clients with a certificate of the mesh."""
        return self.server_identity.credentials()


def _plugged_folder(settings: Settings, options: CertificateOptions) -> Path | None:
    if options.plugged is not None:
        if not options.plugged.is_dir():
            raise BadInput(
                f"{options.plugged} is not a folder; --ca-certs wants the folder of ca-cert.pem and the rest"
            )
        return options.plugged
    return settings.plugged_dir if material_files(settings.plugged_dir) else None


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
