"""Istio's certificate signing API: the messages and the one method, as old and new Istio clients speak it.

Source: package `istio.v1.auth`, service `IstioCertificateService`; fields as in Istio's `security/v1alpha1/ca.proto`.
The response's chain is the leaf first, then one intermediate an entry, the root or roots together in the last entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lateen.wire.messages import FieldProto, FileProto, MessageProto, make_messages

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableSequence

    from google.protobuf.message import Message
    from google.protobuf.struct_pb2 import Struct

__all__ = [
    "CREATE_CERTIFICATE",
    "IDENTITY_METADATA",
    "METHOD",
    "SERVICE",
    "IstioCertificateRequest",
    "IstioCertificateResponse",
]

SERVICE = "istio.v1.auth.IstioCertificateService"
METHOD = "CreateCertificate"
CREATE_CERTIFICATE = f"/{SERVICE}/{METHOD}"

# gRPC metadata of a call on the local socket: the identity that the caller wants, "<namespace>/<service account>".
IDENTITY_METADATA = "lateen-identity"

if TYPE_CHECKING:

    class IstioCertificateRequest(Message):
        """A CSR in PEM; `validity_duration` in seconds, 0 for the authority's default."""

        csr: str
        validity_duration: int
        metadata: Struct

        def __init__(self, *, csr: str = "", validity_duration: int = 0, metadata: Struct | None = None) -> None: ...

    class IstioCertificateResponse(Message):
        """The chain in PEM: leaf, intermediates, root or roots."""

        cert_chain: MutableSequence[str]

        def __init__(self, *, cert_chain: Iterable[str] = ()) -> None: ...


_STRING, _INT64, _MESSAGE = FieldProto.TYPE_STRING, FieldProto.TYPE_INT64, FieldProto.TYPE_MESSAGE
_ONE, _MANY = FieldProto.LABEL_OPTIONAL, FieldProto.LABEL_REPEATED

_classes = make_messages(
    FileProto(
        name="lateen/istio/v1/auth/ca.proto",
        package="istio.v1.auth",
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
        message_type=[
            MessageProto(
                name="IstioCertificateRequest",
                field=[
                    FieldProto(name="csr", number=1, type=_STRING, label=_ONE),
                    FieldProto(name="validity_duration", number=3, type=_INT64, label=_ONE),
                    FieldProto(
                        name="metadata", number=4, type=_MESSAGE, label=_ONE, type_name=".google.protobuf.Struct"
                    ),
                ],
            ),
            MessageProto(
                name="IstioCertificateResponse",
                field=[FieldProto(name="cert_chain", number=1, type=_STRING, label=_MANY)],
            ),
        ],
    )
)
if not TYPE_CHECKING:
    IstioCertificateRequest = _classes["IstioCertificateRequest"]
    IstioCertificateResponse = _classes["IstioCertificateResponse"]
