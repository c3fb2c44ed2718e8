"""Secrets are read strictly, and no message shows what they hold."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of
from tests.fakes.tls_clients import Pair, make_pair, revoke

from lateen.api.decode import Decoded, decode_documents
from lateen.api.secret import GRANT, credential_of, granted_to

AUTHORITY = StrangeAuthority()
PAIR = make_pair(AUTHORITY, "shop.test")
OTHER = make_pair(AUTHORITY, "other.test")
CHAIN, KEY = PAIR.chain.decode(), PAIR.private_key.decode()
SECRET_TEXT = "topsecretvalue"


def decode(values: dict[str, str | bytes], *, kind: str = "Opaque", field: str = "data") -> Decoded:
    lines = [f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ntype: {kind}\n{field}:"]
    for key, value in values.items():
        raw = value if isinstance(value, bytes) else value.encode()
        text = base64.b64encode(raw).decode() if field == "data" else '"' + raw.decode().replace("\n", "\\n") + '"'
        lines.append(f"  {key}: {text}")
    return decode_documents("\n".join(lines).encode(), "s.yaml")


def test_both_spellings_are_read() -> None:
    body = base64.b64encode(PAIR.chain).decode()
    wrapped = "\n".join(f"      {body[i : i + 64]}" for i in range(0, len(body), 64))
    key = "\n".join(f"      {line}" for line in KEY.splitlines())
    text = f"""
apiVersion: v1
kind: Secret
metadata: {{name: s}}
type: kubernetes.io/tls
immutable: true
data:
  tls.key: {base64.b64encode(OTHER.private_key).decode()}
  tls.crt: |
{wrapped}
stringData:
  tls.key: |
{key}
"""
    decoded = decode_documents(text.encode(), "s.yaml")
    assert decoded.problems == ()
    found = credential_of(decoded.objects[0].spec)
    assert found.chain == PAIR.chain
    assert found.private_key.strip() == PAIR.private_key.strip()  # stringData beats data


def test_the_keys_of_a_generic_secret_go_first() -> None:
    values: dict[str, str | bytes] = {
        "cert": PAIR.chain,
        "key": PAIR.private_key,
        "cacert": AUTHORITY.root_pem,
        "crl": revoke(AUTHORITY, OTHER),
        "tls.crt": OTHER.chain,
        "tls.key": OTHER.private_key,
        "ca.crt": OTHER.chain,
    }
    decoded = decode(values)
    assert decoded.problems == ()
    found = credential_of(decoded.objects[0].spec)
    assert (found.chain, found.roots) == (PAIR.chain, AUTHORITY.root_pem)
    assert found.crl == values["crl"]


def _old() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    return Pair(
        AUTHORITY.certify(key, names=(), not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)), key
    )


def _of(key: object) -> dict[str, str | bytes]:
    certificate = AUTHORITY.certify(key, names=())  # type: ignore[arg-type]  # any key that signs nothing
    return {"tls.crt": pem_of(certificate), "tls.key": key_pem(key)}


LOCKED = PAIR.key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
)


@pytest.mark.parametrize(
    ("kind", "values", "field", "message"),
    [
        ("kubernetes.io/tls", {"tls.crt": CHAIN}, "data", "must have tls.key for kubernetes.io/tls"),
        ("Opaque", {"cert": CHAIN}, "data[cert]", "wants key beside it"),
        ("Opaque", {"tls.key": KEY}, "data[tls.key]", "wants tls.crt beside it"),
        ("Opaque", {"cert": SECRET_TEXT, "key": KEY}, "data[cert]", "must be certificates in PEM"),
        ("Opaque", {"cert": KEY, "key": KEY}, "data[cert]", "must be certificates in PEM"),
        ("Opaque", {"cert": CHAIN, "key": SECRET_TEXT}, "data[key]", "must be a private key in PEM"),
        ("Opaque", {"cert": CHAIN, "key": LOCKED}, "data[key]", "without a password"),
        ("Opaque", {"cert": CHAIN, "key": OTHER.private_key}, "data[key]", "is not the key of the certificate in cert"),
        ("Opaque", _of(rsa.generate_private_key(65537, 1024)), "data[tls.key]", "must have 2048 bits or more for RSA"),
        ("Opaque", _of(ec.generate_private_key(ec.SECP224R1())), "data[tls.key]", "must be on P-256, P-384 or P-521"),
        ("Opaque", _of(ed25519.Ed25519PrivateKey.generate()), "data[tls.key]", "must be an RSA or an ECDSA key"),
        ("Opaque", {"ca.crt": SECRET_TEXT}, "data[ca.crt]", "must be certificates in PEM"),
        ("Opaque", {"ca.crt": CHAIN, "ca.crl": CHAIN}, "data[ca.crl]", "must be revocation lists in PEM"),
    ],
)
@pytest.mark.parametrize("spelling", ["data", "stringData"])
def test_what_is_refused(kind: str, values: dict[str, str | bytes], field: str, message: str, spelling: str) -> None:
    decoded = decode(values, kind=kind, field=spelling)
    place = field.replace("data", spelling) if "[" in field else field
    (problem,) = [problem for problem in decoded.problems if problem.level == "error"]
    assert decoded.objects == ()
    assert (problem.field, problem.line > 1 or "[" not in field) == (place, True)
    assert message in problem.message
    assert SECRET_TEXT not in str(decoded)


def test_a_certificate_that_ran_out_is_told_and_served() -> None:
    old = _old()
    decoded = decode({"tls.crt": old.chain, "tls.key": old.private_key})
    assert [(problem.level, problem.field) for problem in decoded.problems] == [("warning", "data[tls.crt]")]
    assert len(decoded.objects) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"data: {{tls.key: {SECRET_TEXT}!}}",
        "data: {tls.key: 1234567890123}",
        f"data: {SECRET_TEXT}",
        f"stringData: [{SECRET_TEXT}]",
        f"stringData: {{tls.key: {{{SECRET_TEXT}: 1}}}}",
        f"stringData: {{tls.key: !!int {SECRET_TEXT}}}",
        f"type: [{SECRET_TEXT}]",
    ],
)
def test_no_message_shows_a_value(text: str) -> None:
    decoded = decode_documents(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{text}\n".encode(), "s.yaml")
    errors = [problem for problem in decoded.problems if problem.level == "error"]
    assert errors
    assert SECRET_TEXT not in str(errors)
    assert "1234567890123" not in str(errors)


def test_what_kubectl_notes_on_a_secret_is_not_kept() -> None:
    text = f"""
apiVersion: v1
kind: Secret
metadata:
  name: s
  annotations: {{kubectl.kubernetes.io/last-applied-configuration: "{SECRET_TEXT}"}}
stringData: {{token: {SECRET_TEXT}}}
"""
    (obj,) = decode_documents(text.encode(), "s.yaml").objects
    assert SECRET_TEXT not in repr(obj)


def test_a_secret_prints_the_names_of_its_keys_only() -> None:
    (obj,) = decode({"token": SECRET_TEXT}, field="stringData").objects
    assert "token" in repr(obj)
    assert SECRET_TEXT not in repr(obj)
    assert SECRET_TEXT not in f"{obj.spec!s} {credential_of(obj.spec)!r}"


def test_what_is_only_in_a_secret_is_in_no_fault_of_it() -> None:
    """Somebody slips with the indentation, and what should be a value is the name of a field."""
    text = f"""
apiVersion: v1
kind: Secret
metadata: {{name: s, {SECRET_TEXT}: x}}
{SECRET_TEXT}: ""
stringdata: {{x: "{SECRET_TEXT}"}}
stringData: {{tls.key: ["{SECRET_TEXT}"]}}
"""
    told = [str(problem) for problem in decode_documents(text.encode(), "s.yaml").problems]
    assert not [line for line in told if SECRET_TEXT in line]
    assert "s.yaml:5: has what is not a field of Secret, which has data, immutable, stringData, type" in told
    assert "s.yaml:4: metadata: has what is not a field of metadata, it is passed over" in told
    assert "s.yaml:6: stringdata: is not a field of Secret, did you mean stringData?" in told


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("edge", []),
        ("edge, other-edge", []),
        ("*", ["*"]),
        ("Edge,edge", ["Edge"]),
        ("edge/gateway", ["edge/gateway"]),
        ("", []),
    ],
)
def test_whom_a_secret_is_granted_to(written: str, wrong: list[str]) -> None:
    text = f"""
apiVersion: v1
kind: Secret
metadata:
  name: s
  annotations:
    {GRANT}: "{written}"
    kubectl.kubernetes.io/last-applied-configuration: '{SECRET_TEXT}'
stringData: {{ca.crt: "{AUTHORITY.root_pem.decode().encode("unicode_escape").decode()}"}}
"""
    decoded = decode_documents(text.encode(), "s.yaml")
    told = [problem.message for problem in decoded.problems]
    assert told == [f'must be namespaces, joined by commas, got "{one}"' for one in wrong]
    for obj in decoded.objects:
        assert granted_to(obj) == {word.strip() for word in written.split(",") if word}
        assert SECRET_TEXT not in repr(obj)
