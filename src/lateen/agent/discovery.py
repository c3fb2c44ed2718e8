"""The few xDS messages that an agent speaks, described in code: discovery, secrets.

Source: envoy/service/discovery/v3/discovery.proto, envoy/extensions/transport_sockets/tls/v3/{secret,common}.proto.
Only the fields that are used; others that arrive are skipped. Loading Envoy's own messages costs 1.5 MB and 20 ms.
"""

from __future__ import annotations

from typing import Any, Final

from lateen.wire.messages import FieldProto, FileProto, MessageOptions, MessageProto, make_messages

__all__ = [
    "SECRET_TYPE_URL",
    "DeltaDiscoveryRequest",
    "DeltaDiscoveryResponse",
    "DiscoveryRequest",
    "DiscoveryResponse",
    "Secret",
]

SECRET_TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  # no password

_PACKAGE: Final = "lateen.agent.discovery"  # messages are told by their type URLs, so the package may be our own
_KINDS: Final = {"string": FieldProto.TYPE_STRING, "bytes": FieldProto.TYPE_BYTES, "int32": FieldProto.TYPE_INT32}


def _field(number: int, name: str, kind: str, *, many: bool = False) -> FieldProto:
    label = FieldProto.LABEL_REPEATED if many else FieldProto.LABEL_OPTIONAL
    if kind in _KINDS:
        return FieldProto(name=name, number=number, type=_KINDS[kind], label=label)
    type_name = kind if kind.startswith(".") else f".{_PACKAGE}.{kind}"
    return FieldProto(name=name, number=number, type=FieldProto.TYPE_MESSAGE, label=label, type_name=type_name)


_Versions = MessageProto(
    name="VersionsEntry",
    field=[_field(1, "key", "string"), _field(2, "value", "string")],
    options=MessageOptions(map_entry=True),
)

_classes: Final[dict[str, Any]] = make_messages(
    FileProto(
        name="lateen/agent/discovery.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
        message_type=[
            MessageProto(name="Any", field=[_field(1, "type_url", "string"), _field(2, "value", "bytes")]),
            MessageProto(name="Status", field=[_field(1, "code", "int32"), _field(2, "message", "string")]),
            MessageProto(
                name="Locality",
                field=[_field(1, "region", "string"), _field(2, "zone", "string"), _field(3, "sub_zone", "string")],
            ),
            MessageProto(
                name="Node",
                field=[
                    _field(1, "id", "string"),
                    _field(2, "cluster", "string"),
                    _field(3, "metadata", ".google.protobuf.Struct"),
                    _field(4, "locality", "Locality"),
                ],
            ),
            MessageProto(
                name="DiscoveryRequest",
                field=[
                    _field(1, "version_info", "string"),
                    _field(2, "node", "Node"),
                    _field(3, "resource_names", "string", many=True),
                    _field(4, "type_url", "string"),
                    _field(5, "response_nonce", "string"),
                    _field(6, "error_detail", "Status"),
                ],
            ),
            MessageProto(
                name="DiscoveryResponse",
                field=[
                    _field(1, "version_info", "string"),
                    _field(2, "resources", "Any", many=True),
                    _field(4, "type_url", "string"),
                    _field(5, "nonce", "string"),
                ],
            ),
            MessageProto(
                name="DeltaDiscoveryRequest",
                field=[
                    _field(1, "node", "Node"),
                    _field(2, "type_url", "string"),
                    _field(3, "resource_names_subscribe", "string", many=True),
                    _field(4, "resource_names_unsubscribe", "string", many=True),
                    _field(5, "initial_resource_versions", "DeltaDiscoveryRequest.VersionsEntry", many=True),
                    _field(6, "response_nonce", "string"),
                    _field(7, "error_detail", "Status"),
                ],
                nested_type=[_Versions],
            ),
            MessageProto(
                name="Resource",
                field=[_field(1, "version", "string"), _field(2, "resource", "Any"), _field(3, "name", "string")],
            ),
            MessageProto(
                name="DeltaDiscoveryResponse",
                field=[
                    _field(1, "system_version_info", "string"),
                    _field(2, "resources", "Resource", many=True),
                    _field(4, "type_url", "string"),
                    _field(5, "nonce", "string"),
                    _field(6, "removed_resources", "string", many=True),
                ],
            ),
            MessageProto(name="DataSource", field=[_field(2, "inline_bytes", "bytes")]),
            MessageProto(
                name="TlsCertificate",
                field=[_field(1, "certificate_chain", "DataSource"), _field(2, "private_key", "DataSource")],
            ),
            MessageProto(name="CertificateValidationContext", field=[_field(1, "trusted_ca", "DataSource")]),
            MessageProto(
                name="Secret",
                field=[
                    _field(1, "name", "string"),
                    _field(2, "tls_certificate", "TlsCertificate"),
                    _field(4, "validation_context", "CertificateValidationContext"),
                ],
            ),
        ],
    )
)

DiscoveryRequest: Final[Any] = _classes["DiscoveryRequest"]
DiscoveryResponse: Final[Any] = _classes["DiscoveryResponse"]
DeltaDiscoveryRequest: Final[Any] = _classes["DeltaDiscoveryRequest"]
DeltaDiscoveryResponse: Final[Any] = _classes["DeltaDiscoveryResponse"]
Secret: Final[Any] = _classes["Secret"]
