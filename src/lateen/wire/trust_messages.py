"""The trust bundle on the wire: one xDS resource, pushed over the stream that an agent has for names.

Lateen's own type: Istio's agents learn extra roots of one trust domain by its PCDS, which has no place for whose they
are. Agents decode it without the protobuf library (`lateen.agent.messages`); tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from lateen.errors import BadInput
from lateen.wire.messages import FieldProto, FileProto, MessageProto, make_messages
from lateen.wire.trust import TrustBundle, TrustUpdate

if TYPE_CHECKING:
    from collections.abc import MutableSequence

    from google.protobuf.message import Message

__all__ = ["TRUST_RESOURCE", "TRUST_TYPE_URL", "decode_trust", "encode_trust"]

_PACKAGE = "lateen.trust.v1"
TRUST_TYPE_URL = f"type.googleapis.com/{_PACKAGE}.TrustBundle"
TRUST_RESOURCE = "trust"  # the one resource's name

if TYPE_CHECKING:

    class _Domain(Message):
        name: str
        roots: MutableSequence[str]
        jwt_keys: str

        def __init__(self, *, name: str = "", roots: Iterable[str] = (), jwt_keys: str = "") -> None: ...

    class _Bundle(Message):
        domains: MutableSequence[_Domain]
        signing_path: str
        revoked: str

        def __init__(self, *, domains: Iterable[_Domain] = (), signing_path: str = "", revoked: str = "") -> None: ...


_STRING, _ONE, _MANY = FieldProto.TYPE_STRING, FieldProto.LABEL_OPTIONAL, FieldProto.LABEL_REPEATED
_classes = make_messages(
    FileProto(
        name="lateen/trust/v1/trust.proto",
        package=_PACKAGE,
        syntax="proto3",
        message_type=[
            MessageProto(
                name="TrustBundle",
                field=[
                    FieldProto(
                        name="domains",
                        number=1,
                        type=FieldProto.TYPE_MESSAGE,
                        label=_MANY,
                        type_name=f".{_PACKAGE}.TrustDomain",
                    ),
                    FieldProto(name="signing_path", number=2, type=_STRING, label=_ONE),
                    FieldProto(name="revoked", number=3, type=_STRING, label=_ONE),
                ],
            ),
            MessageProto(
                name="TrustDomain",
                field=[
                    FieldProto(name="name", number=1, type=_STRING, label=_ONE),
                    FieldProto(name="roots", number=2, type=_STRING, label=_MANY),
                    FieldProto(name="jwt_keys", number=3, type=_STRING, label=_ONE),
                ],
            ),
        ],
    )
)
if not TYPE_CHECKING:
    _Bundle, _Domain = _classes["TrustBundle"], _classes["TrustDomain"]


def encode_trust(update: TrustUpdate) -> bytes:
    """Return the message's bytes: the same for equal updates."""
    keys = dict(update.jwt_keys)
    names = sorted({*update.bundle.roots, *keys})
    domains = [
        _Domain(name=name, roots=update.bundle.roots.get(name, ()), jwt_keys=keys.get(name, "")) for name in names
    ]
    message = _Bundle(domains=domains, signing_path=update.signing_path, revoked=update.revoked)
    return message.SerializeToString(deterministic=True)


def decode_trust(data: bytes) -> TrustUpdate:
    """Return the update in a message. Raises `BadInput`."""
    try:
        message = _Bundle.FromString(data)
    except DecodeError as error:
        raise BadInput(f"no trust bundle: {error}") from error
    return TrustUpdate(
        TrustBundle.of({domain.name: domain.roots for domain in message.domains}),
        message.signing_path,
        tuple((domain.name, domain.jwt_keys) for domain in message.domains if domain.jwt_keys),
        message.revoked,
    )
