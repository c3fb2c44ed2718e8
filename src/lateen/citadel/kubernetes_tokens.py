"""Pods show who they are: projected service account tokens, judged by the API server of their own cluster.

In:  `authorization: Bearer TOKEN`, and `clusterid: NAME` where a mesh spans several clusters.
Out: the identity of the service account, and the pod that the token is bound to, for `impersonation`.
Rules: TokenReview of authentication.k8s.io/v1; audience `istio-ca` and metadata as Istio's. The token itself is not
read here: whether it is signed, still valid, and of a pod that still exists is the API server's to say, each time. What
does not answer lets nobody in.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog

from lateen.citadel.authenticate import CallContext, Caller, PodHost
from lateen.citadel.callers import bearer_of
from lateen.citadel.external.https import HttpsClient
from lateen.errors import BadInput, Refused, Unavailable
from lateen.wire.join import is_join_token
from lateen.wire.spiffe import SpiffeId

__all__ = ["AUDIENCES", "HttpTokenReviewer", "Reviewed", "ServiceAccountTokens", "TokenReviewer"]

log = structlog.get_logger(__name__)

AUDIENCES: Final = ("istio-ca",)  # Istio's TOKEN_AUDIENCES
CLUSTER_METADATA: Final = "clusterid"
PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
AT_ONCE: Final = 32  # reviews that are asked for; an API server limits its clients, too
WAITING: Final = 5_000  # callers that wait for one

_GROUP: Final = "system:serviceaccounts"
_USER = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
_POD_NAME, _POD_UID, _NODE_NAME = (
    f"authentication.kubernetes.io/{key}" for key in ("pod-name", "pod-uid", "node-name")
)
# Three parts of base64url: what else is shown is not worth asking an API server about.
_JWT = re.compile(r"[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """What an API server says of a token: `status` of a TokenReview."""

    authenticated: bool = False
    username: str = ""
    groups: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()  # those asked for that the token has
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    error: str = ""


class TokenReviewer(Protocol):
    """One cluster's word on tokens."""

    async def review(self, token: str, audiences: Sequence[str]) -> Reviewed:
        """Raises `Unavailable`."""


class ServiceAccountTokens:
    """Recognises pods. Tokens of one cluster are never shown to another's API server."""

    def __init__(
        self,
        reviewers: Mapping[str, TokenReviewer],
        *,
        cluster: str,
        trust_domain: str,
        audiences: Sequence[str] = AUDIENCES,
        at_once: int = AT_ONCE,
    ) -> None:
        """`reviewers` by cluster id; `cluster`: that of callers that name none."""
        self._reviewers = dict(reviewers)
        self._cluster = cluster
        self._trust_domain = trust_domain
        self._audiences = tuple(audiences)
        self._slots = asyncio.Semaphore(at_once)
        self._waiting = 0

    async def authenticate(self, context: CallContext) -> Caller | None:
        token = bearer_of(context)
        if token is None or is_join_token(token):
            return None
        if not _JWT.fullmatch(token):
            raise Refused("bearer token is no JSON web token")
        cluster = self._cluster_of(context)
        reviewed = await self._review(cluster, token)
        try:
            return self._caller(cluster, reviewed)
        except Refused as error:
            # What is wrong is told to whoever runs the mesh, not to whoever tries tokens.
            log.warning("service account token refused", cluster=cluster, reason=str(error))
            raise Refused(f"service account token is not valid in cluster {cluster!r}") from error

    def _cluster_of(self, context: CallContext) -> str:
        named = [value for key, value in context.invocation_metadata() or () if key == CLUSTER_METADATA]
        if len(named) > 1 or not all(isinstance(value, str) for value in named):
            raise Refused(f"{CLUSTER_METADATA}: one value wanted, got {len(named)}")
        cluster = str(named[0]) if named and named[0] else self._cluster
        if cluster not in self._reviewers:
            raise Refused(f"{CLUSTER_METADATA}: no cluster of this mesh, got {cluster[:100]!r}")
        return cluster

    async def _review(self, cluster: str, token: str) -> Reviewed:
        if self._waiting >= WAITING:
            raise Unavailable("too many tokens wait to be reviewed; try again later")
        self._waiting += 1
        try:
            async with self._slots:
                return await self._reviewers[cluster].review(token, self._audiences)
        finally:
            self._waiting -= 1

    def _caller(self, cluster: str, reviewed: Reviewed) -> Caller:
        if not reviewed.authenticated or reviewed.error:
            raise Refused(f"not authenticated: {reviewed.error[:200] or 'no reason given'}")
        # An API server that knows no audiences leaves the list empty: the token may then be for anybody.
        if not reviewed.audiences & set(self._audiences):
            raise Refused(f"audience {', '.join(self._audiences)} wanted, got {sorted(reviewed.audiences)}")
        found = _USER.fullmatch(reviewed.username)
        if _GROUP not in reviewed.groups or found is None:
            raise Refused(f"of no service account: {reviewed.username[:200]!r}")
        try:
            identity = SpiffeId(self._trust_domain, found[1], found[2])
        except BadInput as error:
            raise Refused(str(error)) from error
        return Caller(identity, "kubernetes", host=_host(cluster, identity.namespace, reviewed.extra))


class HttpTokenReviewer:
    """Asks one API server, as the service account whose token is in a file (re-read, as it is replaced there)."""

    def __init__(self, http: HttpsClient, token_file: Path) -> None:
        self._http = http
        self._token_file = token_file

    async def review(self, token: str, audiences: Sequence[str]) -> Reviewed:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": list(audiences)},
        }
        try:
            own = (await asyncio.to_thread(self._token_file.read_text)).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"own token cannot be read from {self._token_file}: {error}") from error
        headers = {
            "authorization": f"Bearer {own}",
            "content-type": "application/json",
            "accept": "application/json",
        }
        answer = await self._http.request("POST", PATH, headers=headers, body=json.dumps(body).encode())
        if answer.status not in (200, 201):
            raise Unavailable(f"{self._http.server} reviews no token: status {answer.status}")
        try:
            review = _decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self._http.server} gave no TokenReview: {error}") from error
        status = review.status
        return Reviewed(
            authenticated=status.authenticated,
            username=status.user.username,
            groups=frozenset(status.user.groups),
            audiences=frozenset(status.audiences),
            extra=status.user.extra,
            error=status.error,
        )


def _host(cluster: str, namespace: str, extra: Mapping[str, Sequence[str]]) -> PodHost | None:
    """Return the pod that a token is bound to; None for a token that is bound to none."""

    def one(key: str) -> str:
        values = extra.get(key, ())
        return values[0] if len(values) == 1 else ""

    if not one(_POD_NAME) or not one(_POD_UID):
        return None
    return PodHost(cluster=cluster, namespace=namespace, pod=one(_POD_NAME), uid=one(_POD_UID), node=one(_NODE_NAME))


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


class _Status(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] = ()
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _Status


_decode: Any = msgspec.json.Decoder(_Review).decode
