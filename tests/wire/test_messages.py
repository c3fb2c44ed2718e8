"""Messages that are built in code must mean on the wire what Istio's generated ones mean: checked byte by byte."""

import subprocess
import sys

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from lateen.wire.ca import CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse
from lateen.wire.nds import NAME_TABLE_TYPE_URL, NameInfo, NameTable, build_name_table, encode_name_table


def test_request_on_the_wire() -> None:
    request = IstioCertificateRequest(csr="PEM", validity_duration=300)
    request.metadata["CertSigner"] = "x"
    # field 1 string, field 3 varint, field 4 Struct{fields(1): {key(1), value(2): {string_value(3)}}}
    struct = b"\x0a\x11" + b"\x0a\x0aCertSigner" + b"\x12\x03\x1a\x01x"
    assert request.SerializeToString() == b"\x0a\x03PEM" + b"\x18\xac\x02" + b"\x22" + bytes([len(struct)]) + struct
    assert IstioCertificateRequest.FromString(request.SerializeToString()) == request


def test_response_on_the_wire() -> None:
    assert IstioCertificateResponse(cert_chain=["leaf", "root"]).SerializeToString() == b"\x0a\x04leaf\x0a\x04root"


def test_method_is_istios() -> None:
    assert CREATE_CERTIFICATE == "/istio.v1.auth.IstioCertificateService/CreateCertificate"
    assert IstioCertificateRequest.DESCRIPTOR.full_name == "istio.v1.auth.IstioCertificateRequest"


def test_name_table_on_the_wire() -> None:
    info = NameInfo(ips=["10.96.0.1"], registry="Kubernetes", shortname="r", namespace="d", alt_hosts=["x"])
    assert info.SerializeToString() == (
        b"\x0a\x0910.96.0.1" + b"\x12\x0aKubernetes" + b"\x1a\x01r" + b"\x22\x01d" + b"\x2a\x01x"
    )
    entry = b"\x0a\x01h" + b"\x12" + bytes([info.ByteSize()]) + info.SerializeToString()
    assert encode_name_table(build_name_table({"h": info})) == b"\x0a" + bytes([len(entry)]) + entry


def test_name_table_type_url_is_what_any_makes_of_it() -> None:
    packed = any_pb2.Any()
    packed.Pack(NameTable())
    assert packed.type_url == NAME_TABLE_TYPE_URL


def test_equal_tables_have_equal_bytes() -> None:
    names = {f"host-{i}.example": NameInfo(ips=[f"10.0.{i // 256}.{i % 256}"]) for i in range(500)}
    forward = encode_name_table(build_name_table(names))
    backward = encode_name_table(build_name_table(dict(reversed(names.items()))))
    assert forward == backward
    assert NameTable.FromString(forward).table["host-7.example"].ips == ["10.0.0.7"]


@pytest.mark.parametrize("kind", [IstioCertificateRequest, IstioCertificateResponse, NameTable])
def test_garbage_is_refused(kind: type[NameTable]) -> None:
    with pytest.raises(DecodeError):
        kind.FromString(b"\x0a\xff\xff\xff\xff\x7fgarbage")


def test_imports_stay_light() -> None:
    # The agent and the CLI import these; a control plane's Envoy messages or cryptography must not come with them.
    script = (
        "import sys, lateen.wire.ca, lateen.wire.nds;"
        "print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'envoy', 'cryptography', 'msgspec')])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
