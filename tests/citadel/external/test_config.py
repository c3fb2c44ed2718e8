"""The file that chooses an authority: what it takes, and how its faults are told."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lateen.citadel.external.config import AuthorityConfig, load_authority_config
from lateen.citadel.external.kubernetes import KubernetesAuthority
from lateen.citadel.external.vault import Vault
from lateen.errors import BadInput

Load = Callable[[str], AuthorityConfig]

VAULT = """
kind: vault
parameters:
  address: https://vault.example:8200
  auth:
    token:
      file: token
"""

PLUGIN = """
from datetime import timedelta
from typing import Annotated

import msgspec
from lateen.api.base import Spec
from lateen.citadel.external import ExternalAuthority

class Parameters(Spec, frozen=True, kw_only=True):
    url: str
    retries: Annotated[int, msgspec.Meta(ge=0, le=9)] = 3

class Acme(ExternalAuthority):
    Parameters = Parameters

    async def sign(self, order):
        return self.parameters.url.encode()

    @staticmethod
    def check(parameters, profile):
        if not parameters.url.startswith("acme:"):
            yield "url", f"must begin with acme:, got {parameters.url!r}"

    def describe(self):
        return {"url": self.parameters.url}

class NoSign(ExternalAuthority):
    pass

class Stranger:
    pass

class Odd(Acme):
    profiles = frozenset({"root"})
"""

METADATA = """[lateen.authorities]
acme = acme_lateen:Acme
vault = acme_lateen:Acme
nosign = acme_lateen:NoSign
stranger = acme_lateen:Stranger
odd = acme_lateen:Odd
absent = acme_lateen_absent:Acme
"""


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """Install a small package: a module, and metadata with its entry points, in a folder on `sys.path`."""
    site = tmp_path / "site"
    info = site / "acme_lateen-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_lateen.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-lateen\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(METADATA)
    sys.path.insert(0, str(site))
    yield
    sys.path.remove(str(site))
    sys.modules.pop("acme_lateen", None)


def refusal(configured: Load, text: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        configured(text)
    return [line.rpartition("/authority.yaml:")[2] for line in str(caught.value).splitlines()]


def test_a_vault(configured: Load, tmp_path: Path) -> None:
    config = configured(VAULT + "roots: roots.pem\ntimeout: 30s\nconcurrency: 3\nintermediateLifetime: 240h\n")
    assert config.authority is Vault
    assert config.profile == "intermediate"
    assert config.roots_file == tmp_path / "roots.pem"
    assert config.intermediate_lifetime == timedelta(days=10)
    assert (config.context.timeout, config.context.concurrency) == (timedelta(seconds=30), 3)
    assert config.context.path("token") == tmp_path / "token"
    assert config.context.path("/etc/token") == Path("/etc/token")
    assert config.make().describe() == {"address": "https://vault.example:8200", "mount": "pki", "auth": "token"}


def test_a_cluster(configured: Load) -> None:
    config = configured("kind: kubernetes\nparameters: {signerName: acme.example/mesh}\n")
    assert config.authority is KubernetesAuthority
    assert config.profile == "leaf"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "kind: vualt\n",
            ['1: kind: "vualt" is no authority that is built in or installed, did you mean vault?'],
            id="kind",
        ),
        pytest.param(VAULT + "mod: leaf\n", ["8: mod: is not a field of AuthorityFile, did you mean mode"], id="field"),
        pytest.param(VAULT + "mode: leaf\n", ["3: parameters.role: is required in mode leaf"], id="role"),
        pytest.param(
            VAULT + "timeout: 10m\n", ["8: timeout: must be at most 300s in mode intermediate"], id="time-out"
        ),
        pytest.param(
            VAULT.replace("auth:", "role: mesh\n  auth:") + "mode: leaf\ntimeout: 10s\n",
            ["10: timeout: must be at most 9s in mode leaf, got 0:00:10"],
            id="time-out of leaves",
        ),
        pytest.param(VAULT + "concurrency: 0\n", ["8: concurrency: must be at least 1 and at most 256"], id="at once"),
        pytest.param(
            VAULT + "intermediateLifetime: 10s\n", ["8: intermediateLifetime: must be at least 1m"], id="life"
        ),
        pytest.param(VAULT.replace("https", "http"), ["4: parameters.address: must be https: over http"], id="plain"),
        pytest.param(
            VAULT.replace("https://", "https://me:secret@"),
            ["4: parameters.address: wants a URL as in https://host:port: the URL for vault.example holds credentials"],
            id="credentials",
        ),
        pytest.param(
            VAULT + "      extra: 1\n    appRole: {roleIdFile: a, secretIdFile: b}\n",
            [
                "8: parameters.auth.token.extra: is not a field of TokenAuth, which has file",
                "9: parameters.auth.appRole: only one of token, appRole, kubernetes may be set",
            ],
            id="two faults",
        ),
        pytest.param(
            "kind: vault\nparameters: {address: 'https://v', auth: {}}\n",
            ["2: parameters.auth: must have one of token, appRole and kubernetes"],
            id="no way to log in",
        ),
        pytest.param(
            "kind: vault\nparameters: {}\n",
            ["2: parameters.address: is required", "2: parameters.auth: is required in VaultParameters"],
            id="nothing",
        ),
        pytest.param(
            "kind: kubernetes\nmode: intermediate\nparameters: {signerName: a.b/c}\n",
            ["2: mode: kubernetes cannot do intermediate, only leaf"],
            id="mode",
        ),
        pytest.param(
            "kind: kubernetes\nparameters:\n  signerName: nodomain\n",
            ["3: parameters.signerName: must match"],
            id="signer",
        ),
        pytest.param("kind: [\n", ["1: is not YAML: did not find expected node content"], id="YAML"),
        pytest.param("", ["1: one YAML document wanted, got 0"], id="empty"),
        pytest.param("kind: vault\n---\nkind: vault\n", ["1: one YAML document wanted, got 2"], id="two documents"),
    ],
)
def test_faults_have_their_place(configured: Load, text: str, told: list[str]) -> None:
    found = refusal(configured, text)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True)), found
    assert not any("secret" in line for line in found)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"absent\.yaml: cannot be read: No such file"):
        load_authority_config(tmp_path / "absent.yaml", "cluster.local")


# ---------------------------------------------------------------- entry points


@pytest.mark.usefixtures("installed")
async def test_a_class_of_an_installed_package(configured: Load) -> None:
    config = configured("kind: acme\nparameters: {url: 'acme:one'}\n")
    authority = config.make()
    assert type(authority).__name__ == "Acme"
    assert authority.describe() == {"url": "acme:one"}
    assert await authority.sign(None) == b"acme:one"  # type: ignore[arg-type]
    assert await authority.roots() is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "kind: acme\nparameters:\n  url: http\n",
            "3: parameters.url: must begin with acme:, got 'http'",
            id="its own check",
        ),
        pytest.param(
            "kind: acme\nparameters:\n  url: 'acme:'\n  retries: 30\n",
            "4: parameters.retries: must be at least 0 and at most 9, got 30",
            id="its bounds",
        ),
        pytest.param("kind: acme\nparameters: {}\n", "2: parameters.url: is required in Parameters", id="its fields"),
        pytest.param(
            "kind: nosign\n",
            "1: kind: acme_lateen:NoSign of package acme-lateen is no authority: it has no method sign",
            id="no sign",
        ),
        pytest.param(
            "kind: stranger\n",
            "1: kind: acme_lateen:Stranger of package acme-lateen is no authority: a subclass of "
            "lateen.citadel.external.ExternalAuthority wanted",
            id="stranger",
        ),
        pytest.param(
            "kind: odd\n",
            "1: kind: acme_lateen:Odd of package acme-lateen is no authority: its profiles are root, wanted leaf, "
            "intermediate or both",
            id="profiles",
        ),
        pytest.param(
            "kind: absent\n",
            "1: kind: acme_lateen_absent:Acme of package acme-lateen cannot be imported: ModuleNotFoundError: "
            "No module named 'acme_lateen_absent'",
            id="absent",
        ),
    ],
)
def test_what_is_wrong_with_a_package_or_its_parameters(configured: Load, text: str, told: str) -> None:
    assert refusal(configured, text) == [told]


@pytest.mark.usefixtures("installed")
def test_no_package_takes_the_place_of_what_is_built_in(configured: Load) -> None:
    assert configured(VAULT).authority is Vault


def test_what_is_known_is_listed(configured: Load) -> None:
    assert refusal(configured, "kind: xyzzyxyzzy\n") == [
        '1: kind: "xyzzyxyzzy" is no authority that is built in or installed, wanted kubernetes, vault'
    ]


def test_the_examples_of_the_page_are_taken(configured: Load) -> None:
    page = Path(__file__).parents[3] / "docs" / "operations" / "external-authorities.md"
    blocks = re.findall(r"```yaml\n(kind: (vault|kubernetes)\n.*?)```", page.read_text(), re.DOTALL)
    whole = [(text, kind) for text, kind in blocks if "parameters:\n" in text]
    assert [kind for _, kind in whole] == ["vault", "kubernetes"]
    for text, kind in whole:
        # One login of those that the page shows.
        one = re.sub(r"    (?:appRole|kubernetes): \{.*\n", "", text)
        assert configured(one).kind == kind
