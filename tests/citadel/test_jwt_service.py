"""JWT-SVIDs over a real gRPC server: for the caller's own identity, within bounds, with a trace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc import StatusCode
from structlog.testing import capture_logs
from tests.fakes.certs import START, ManualClock

from lateen.citadel.audit import AuditLog, read_audit
from lateen.citadel.authenticate import LocalTrust
from lateen.citadel.jwt_authority import JwtAuthority
from lateen.citadel.jwt_service import JwtService
from lateen.wire.ca import IDENTITY_METADATA
from lateen.wire.jwt_request import ISSUE, JwtAnswer, JwtRequest
from lateen.wire.jwt_svid import validate_jwt_svid

ME = ((IDENTITY_METADATA, "shop/web"),)


@dataclass
class Mesh:
    authority: JwtAuthority
    folder: Path
    channel: Any
    logs: list[Any]

    async def ask(self, request: JwtRequest | bytes, metadata: Any = ME) -> JwtAnswer:
        data = request if isinstance(request, bytes) else msgspec.json.encode(request)
        answer = await self.channel.unary_unary(ISSUE)(data, metadata=metadata, timeout=20)
        return msgspec.json.decode(answer, type=JwtAnswer)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    clock = ManualClock()
    with capture_logs() as logs:
        authority = JwtAuthority(tmp_path / "jwt", "a.example", clock=clock)
        audit = AuditLog(tmp_path)
        service = JwtService(authority, [LocalTrust("a.example")], audit=audit, clock=clock)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((service.handler(),))
        server.add_insecure_port(f"unix:{tmp_path}/s")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            yield Mesh(authority, tmp_path, channel, logs)
        await server.stop(None)
        audit.close()


async def test_the_token_is_the_callers_own_and_the_trail_tells(mesh: Mesh) -> None:
    answer = await mesh.ask(JwtRequest(audience=("db",), lifetime_seconds=60))
    keys = {"a.example": mesh.authority.public_keys}
    svid = validate_jwt_svid(answer.token, "db", keys, START.timestamp())
    assert svid.spiffe_id == answer.spiffe_id == "spiffe://a.example/ns/shop/sa/web"
    assert svid.expires == answer.expires == START.timestamp() + 60
    (line,) = read_audit(mesh.folder)
    assert (line.event, line.kind, line.identity, line.audience) == ("issued", "jwt", svid.spiffe_id, "db")
    assert line.serial == svid.claims["jti"]
    assert answer.token not in str(mesh.logs) + str(read_audit(mesh.folder)) + repr(answer)


@pytest.mark.parametrize(
    ("request_", "metadata", "code", "why"),
    [
        (JwtRequest(audience=("db",)), (), StatusCode.UNAUTHENTICATED, "credentials"),
        (JwtRequest(audience=("db",)), ((IDENTITY_METADATA, "web"),), StatusCode.UNAUTHENTICATED, "identity"),
        (JwtRequest(audience=()), ME, StatusCode.INVALID_ARGUMENT, "audience"),
        (JwtRequest(audience=("db",), lifetime_seconds=3601), ME, StatusCode.INVALID_ARGUMENT, "lifetime"),
        (JwtRequest(audience=("db",), lifetime_seconds=-1), ME, StatusCode.INVALID_ARGUMENT, "lifetime"),
        (JwtRequest(audience=("db",), lifetime_seconds=2**62), ME, StatusCode.INVALID_ARGUMENT, "lifetime"),
        (b'{"audience":["db"],"subject":"spiffe://a.example/ns/x/sa/y"}', ME, StatusCode.INVALID_ARGUMENT, "subject"),
        (b"\xff", ME, StatusCode.INVALID_ARGUMENT, "no request"),
        (b'{"audience":["' + b"x" * 40_000 + b'"]}', ME, StatusCode.INVALID_ARGUMENT, "bytes"),
    ],
)
async def test_what_is_refused_leaves_a_line(
    mesh: Mesh, request_: Any, metadata: Any, code: StatusCode, why: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=why) as caught:
        await mesh.ask(request_, metadata)
    assert caught.value.code() is code
    (line,) = read_audit(mesh.folder)
    assert (line.event, line.kind) == ("refused", "jwt")
    assert line.reason == caught.value.details()
