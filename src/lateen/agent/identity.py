"""The workload's identity: a key that never leaves this process but to its own Envoy, and Citadel's word for it.

Each certificate gets a new P-256 key. Renewal begins at half life, spread (`lateen.wire.renewal`); while Citadel is
away the old certificate goes on being used, and asking goes on. Nothing here is ever written to a file.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc.aio
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.agent.backoff import Breaker
from lateen.agent.channel import CALL_SECONDS, open_local, to_error
from lateen.agent.log import Log
from lateen.agent.messages import (
    CREATE_CERTIFICATE,
    IDENTITY_METADATA,
    decode_certificates,
    encode_certificate_request,
)
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.wire.jwt_request import ISSUE, JwtAnswer, JwtRequest
from lateen.wire.renewal import MAX_JITTER, renewal_time
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import read_certificate
from lateen.wire.trust import signing_path_of

__all__ = ["CitadelClient", "Identity", "Sign", "Svid"]

FIRST_WAIT_SECONDS: Final = 0.05  # Istio's first backoff of a CSR
LONGEST_WAIT_SECONDS: Final = 15.0
BREAKER_FAILURES: Final = 12  # in a row, over about a minute; then an authority that fails is asked rarely
BREAKER_SECONDS: Final = 300.0  # between those attempts, while the certificate leaves so much time
LOOK_SECONDS: Final = 30.0  # the wall clock is looked at this often: a machine that slept does not miss its renewal
REISSUE_SPREAD_SECONDS: Final = 30.0  # over which a mesh whose authority signs by another way asks for new certificates
REISSUE_SHARE: Final = 0.05  # of a lifetime, where that is shorter
SOONEST_SHARE: Final = 0.25  # of what is left of a new certificate passes before it is renewed, whatever its dates say

# CSR in PEM, wanted seconds (0: the default) -> chain in PEM: leaf, intermediates, all roots in the last one
Sign = Callable[[bytes, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """One X.509-SVID with its key and what to check others by. PEM throughout."""

    spiffe_id: SpiffeId
    serial: str
    not_before: datetime
    not_after: datetime
    chain: bytes  # leaf first, no root
    signing_path: str = ""  # by which way it was signed (`lateen.wire.trust`)
    roots: bytes
    key: bytes = field(repr=False)


class CitadelClient:
    """Asks Citadel on its local socket. `namespace` and `service_account` are what it is asked to vouch for."""

    def __init__(self, socket: Path, *, namespace: str, service_account: str) -> None:
        self._where = str(socket)
        self._socket = socket
        self._wanted = f"{namespace}/{service_account}"
        self._opened: Any = None

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((IDENTITY_METADATA, self._wanted),)

    def _channel(self) -> Any:
        if self._opened is None:
            self._opened = open_local(self._socket)
        return self._opened

    async def sign(self, csr: bytes, seconds: int) -> Sequence[str]:
        """Return the chain. Raises `Refused`, `BadInput`, `Unavailable`."""
        return await self._ask(self._channel(), csr, seconds, self._metadata)

    async def _ask(self, channel: Any, csr: bytes, seconds: int, metadata: Any) -> Sequence[str]:
        call = channel.unary_unary(CREATE_CERTIFICATE)
        request = encode_certificate_request(csr, seconds)
        try:
            answer = await call(request, timeout=CALL_SECONDS, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise to_error(f"certificate for {self._wanted} from {self._where!r}", error) from error
        try:
            return decode_certificates(answer)
        except BadInput as error:
            raise Unavailable(f"answer of Citadel: {error}") from error

    async def issue_jwt(self, audience: tuple[str, ...]) -> JwtAnswer:
        """Return a JWT-SVID. Raises `Refused`, `BadInput`, `Unavailable`."""
        call = self._channel().unary_unary(ISSUE)
        request = msgspec.json.encode(JwtRequest(audience=audience))
        try:
            answer = await call(request, timeout=CALL_SECONDS, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise to_error(f"JWT-SVID for {self._wanted} from {self._where!r}", error) from error
        try:
            return msgspec.json.decode(answer, type=JwtAnswer)
        except msgspec.DecodeError as error:
            raise Unavailable(f"answer of Citadel: no JWT-SVID: {error}") from error

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


class Identity:
    """Keeps one workload's SVID fresh. `run` owns it; others read `current` and listen."""

    def __init__(
        self,
        sign: Sign,
        *,
        namespace: str,
        service_account: str | None,
        lifetime: timedelta | None,
        log: Log,
        trust_domain: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """`trust_domain` is the mesh's, where it is known: the CSR names the identity then.

        `service_account` None: whichever Citadel gives. Who joins by a token may learn from it who it is.
        """
        self._named: SpiffeId | None = None
        if trust_domain and service_account is not None:
            self._named = SpiffeId(trust_domain, namespace, service_account)
        self.current: Svid | None = None
        self.failure = ""  # why the last attempt failed; "" once one succeeds
        self.requests = 0
        self.failures = 0
        self._sign = sign
        self._wanted = (namespace, service_account)
        self._seconds = 0 if lifetime is None else max(1, int(lifetime.total_seconds()))
        self._log = log
        self._now = now
        self._sleep = sleep
        self._rng = rng or random.SystemRandom()
        self._listeners: list[Callable[[Svid], None]] = []
        self._first = asyncio.Event()
        self._due: datetime | None = None  # when the current certificate is replaced
        self._hurried = asyncio.Event()
        self._expected = ""  # the signing path in use, as far as is known
        self._asked_expecting = ""  # what that was when the current certificate was asked for

    def expect(self, signing_path: str) -> None:
        """Replace the certificate soon if it was not signed by the way that is in use now ("": not known).

        Once for each way: an authority that signs by several would else be asked without end.
        """
        self._expected = signing_path
        if self.current is not None and self._is_outdated(self.current):
            self._due = self._renewal_of(self.current)
            self._hurried.set()

    def _is_outdated(self, svid: Svid) -> bool:
        return self._expected not in ("", svid.signing_path, self._asked_expecting)

    def listen(self, listener: Callable[[Svid], None]) -> None:
        """Call `listener` with each new SVID, and at once with the one there is."""
        self._listeners.append(listener)
        if self.current is not None:
            listener(self.current)

    async def wait(self) -> Svid:
        """Return the SVID as soon as there is one."""
        await self._first.wait()
        assert self.current is not None
        return self.current

    async def run(self) -> None:
        """Get the first SVID unless there is one, then renew it, until cancelled.

        Raises `Refused` or `BadInput` when Citadel refuses the first one: asking again would not help. Later refusals
        are logged and asked again, since what runs should go on running.
        """
        svid = await self.begin()
        while True:
            self._due = self._renewal_of(svid)
            await self._until_due()
            svid = self._accept(await self._obtain())

    async def begin(self) -> Svid:
        """Get the first SVID and return it. Raises as `run` does."""
        return self.current if self.current is not None else self._accept(await self._obtain())

    def _accept(self, svid: Svid) -> Svid:
        self.current = svid
        self._log.info(
            "certificate received", identity=str(svid.spiffe_id), serial=svid.serial, not_after=svid.not_after
        )
        for listener in self._listeners:
            listener(svid)
        self._first.set()
        return svid

    def _renewal_of(self, svid: Svid) -> datetime:
        now = self._now()
        due = renewal_time(svid.not_before, svid.not_after, self._rng.uniform(-MAX_JITTER, MAX_JITTER))
        if self._is_outdated(svid):
            spread = min(REISSUE_SPREAD_SECONDS, (svid.not_after - svid.not_before).total_seconds() * REISSUE_SHARE)
            return min(due, now + timedelta(seconds=self._rng.uniform(0, spread)))
        # An authority whose clock is ahead, or that gives what is nearly over, is not asked without a pause.
        return max(due, now + max((svid.not_after - now) * SOONEST_SHARE, timedelta(seconds=1)))

    async def _until_due(self) -> None:
        while self._due is not None and (left := (self._due - self._now()).total_seconds()) > 0:
            self._hurried.clear()
            await self._unless_hurried(min(left, LOOK_SECONDS))

    async def _unless_hurried(self, seconds: float) -> None:
        sleep = asyncio.ensure_future(self._sleep(seconds))
        hurry = asyncio.create_task(self._hurried.wait(), name="certificate is due")
        try:
            await asyncio.wait((sleep, hurry), return_when=asyncio.FIRST_COMPLETED)
            if sleep.done():
                sleep.result()
        finally:
            for task in (sleep, hurry):
                task.cancel()
            await asyncio.gather(sleep, hurry, return_exceptions=True)

    async def _obtain(self) -> Svid:
        backoff = Breaker(
            first=FIRST_WAIT_SECONDS,
            longest=LONGEST_WAIT_SECONDS,
            failures=BREAKER_FAILURES,
            pause=BREAKER_SECONDS,
            draw=self._rng.random,
        )
        while True:
            try:
                svid = await self._ask()
            except LateenError as error:
                self.failures += 1
                self.failure = str(error)
                if self.current is None and isinstance(error, (Refused, BadInput)):
                    raise
                wait = min(backoff.wait(), self._patience(spread=self._rng.random()))
                left = None if self.current is None else (self.current.not_after - self._now()).total_seconds()
                self._log.warning(
                    "certificate not received",
                    reason=str(error),
                    next_seconds=wait,
                    valid_seconds=left or 0.0,
                    rarely=backoff.open,
                )
                await self._sleep(wait)
            else:
                self.failure = ""
                return svid

    def _patience(self, *, spread: float) -> float:
        """Return the longest wait: a tenth of the time that is left, but never so short that a mesh becomes a storm.

        Whoever has no certificate, or no valid one, does not carry traffic: it asks as often as a new agent does, since
        an authority that comes back should find it soon. 20,000 of them are some 2,000 attempts a second.
        """
        if self.current is None:
            return LONGEST_WAIT_SECONDS
        left = (self.current.not_after - self._now()).total_seconds()
        life = (self.current.not_after - self.current.not_before).total_seconds()
        least = min(LONGEST_WAIT_SECONDS, max(life / 50, 0.2)) * (1 - 0.5 * spread)
        return max(left / 10, least)

    async def _ask(self) -> Svid:
        key = ec.generate_private_key(ec.SECP256R1())
        self.requests += 1
        expecting = self._expected
        pems = await self._sign(_csr(key, self._named), self._seconds)
        svid = self._check(key, pems)
        self._asked_expecting = expecting
        return svid

    def _check(self, key: ec.EllipticCurvePrivateKey, pems: Sequence[str]) -> Svid:
        """Return the SVID in an answer. Raises `Unavailable` when it is not for this key and identity."""
        if len(pems) < 2:
            raise Unavailable(f"answer of Citadel: leaf and root wanted, got {len(pems)} certificates")
        leaf = pems[0].encode()
        try:
            facts = read_certificate(leaf)
        except BadInput as error:
            raise Unavailable(f"answer of Citadel: {error}") from error
        spiffe_id = facts.spiffe_id
        namespace, account = self._wanted
        if spiffe_id is None or (spiffe_id.namespace, account or spiffe_id.service_account) != (
            namespace,
            spiffe_id.service_account,
        ):
            wanted = f"{namespace}/{account or '*'}"
            raise Unavailable(f"answer of Citadel: a certificate of {wanted} wanted, got {spiffe_id}")
        if x509.load_pem_x509_certificate(leaf).public_key() != key.public_key():
            raise Unavailable("answer of Citadel: a certificate of another key")
        chain = "".join(pem if pem.endswith("\n") else pem + "\n" for pem in pems[:-1]).encode()
        try:
            path = signing_path_of(chain)
        except BadInput as error:
            raise Unavailable(f"answer of Citadel: {error}") from error
        return Svid(
            spiffe_id=spiffe_id,
            serial=facts.serial,
            not_before=facts.not_before,
            not_after=facts.not_after,
            chain=chain,
            signing_path=path,
            roots=pems[-1].encode(),
            key=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def _csr(key: ec.EllipticCurvePrivateKey, named: SpiffeId | None) -> bytes:
    """Return a CSR in PEM without a subject.

    Citadel writes the identity itself and believes none that is asked for. It is named all the same, for those who read
    it there: an authority behind Citadel that copies names from CSRs, and other servers of Istio's method (istio-csr).
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if named is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(named))])
        builder = builder.add_extension(names, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
