"""Settings of one run, read once: folders, sockets, addresses. Nothing else reads the environment.

Layout of the state folder (default `$XDG_STATE_HOME/lateen`, else `~/.local/state/lateen`; `LATEEN_STATE` or `--state`
names another). Everything a mesh writes is below it, and it is mode 0700. A process of the same user, or of root, that
reaches a socket in it is one of the local user's own.

    mesh.json            the running control plane: pid, start time, config folder (written atomically, removed on exit)
    ca/                  what signs: root certificate and key (0600), and where their rotation stands
    cacerts/             a signing certificate and roots to use instead (`lateen up --ca-certs` names another folder)
    authority/           of an authority elsewhere: its roots, the intermediate with its key (0600)
    jwt/                 keys of JWT-SVIDs (0600), a new one each day
    federation.json      bundles of other trust domains, as they were fetched last
    bundle.json          number of the SPIFFE bundle that others were told last
    secrets/             Secrets of the mesh, as YAML, unless `lateen up --secrets` names another folder
    join-tokens.json     join tokens that were created, hashed (0600)
    last-good/           what each file of configuration held when it was last good (0600); no Secrets
    vips.json            virtual IPs that were handed out, kept for good
    jwks.json            public keys of issuers that were fetched, for a restart while an issuer is away (0600)
    tasted               contents that Envoy took, and the last good versions of those it refused (0600)
    workloads/NAME.json  one registration a workload; its pid tells whether it still stands
    w/NAME/              run-time files of one workload: bootstrap, sockets, Envoy's log, access log
    run/ca.sock          gRPC, local trust: certificates, registration, introspection
    run/xds.sock         gRPC, mutual TLS: ADS for proxies
    run/xds-local.sock   gRPC, local trust: ADS for proxyless clients of the same user
    run/mixer.sock       gRPC, mutual TLS: Envoy's authorization, rate limit and access log services, for proxies
    run/taste/           the Envoy that tastes: its bootstrap, its socket, its last words
    run/net.sock         the network holder (namespaces, addresses)
    run/traces.sock      HTTP: the traces that `lateen collector` has seen last
    audit.jsonl          each certificate issued or refused, rotated; audit-strangers.jsonl: refused to nobody known
    lock, run/net.lock   who is the one control plane, the one network holder
    log/                 logs of the network holder, and of every part of a demo
    demo/                the demo's own config folder, unless it is given one
    prometheus/          configuration and data of the Prometheus of `lateen demo --observe`
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lateen.errors import Unsupported

__all__ = ["SUN_PATH_BYTES", "Settings"]

SUN_PATH_BYTES = 107  # what Linux leaves for a Unix socket's path (unix(7): 108 with the closing zero)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Paths of one mesh. Build it with `from_env`; tests give the folder themselves."""

    state: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, state: str | None = None) -> Settings:
        """Return the settings for `state`, else what the environment names.

        Raises `Unsupported` when the sockets below that folder would have paths longer than Linux takes.
        """
        env = os.environ if env is None else env
        chosen = state or env.get("LATEEN_STATE")
        if not chosen:
            base = env.get("XDG_STATE_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".local/state")
            chosen = os.path.join(base, "lateen")
        folder = Path(os.path.abspath(chosen))
        longest = len(os.fsencode(str(folder / "w" / ("x" * 40) / "admin.sock")))
        if longest > SUN_PATH_BYTES:
            raise Unsupported(
                f"state folder {str(folder)!r} is too deep: sockets below it would have paths of {longest} bytes, "
                f"at most {SUN_PATH_BYTES} wanted; name a shorter one with --state or LATEEN_STATE"
            )
        return cls(state=folder)

    @property
    def mesh_file(self) -> Path:
        return self.state / "mesh.json"

    @property
    def ca_dir(self) -> Path:
        return self.state / "ca"

    @property
    def authority_dir(self) -> Path:
        return self.state / "authority"

    @property
    def jwt_dir(self) -> Path:
        return self.state / "jwt"

    @property
    def federation_file(self) -> Path:
        return self.state / "federation.json"

    @property
    def bundle_file(self) -> Path:
        return self.state / "bundle.json"

    @property
    def join_tokens_file(self) -> Path:
        return self.state / "join-tokens.json"

    @property
    def plugged_dir(self) -> Path:
        return self.state / "cacerts"

    @property
    def secrets(self) -> Path:
        return self.state / "secrets"

    @property
    def vips_file(self) -> Path:
        return self.state / "vips.json"

    @property
    def jwks_file(self) -> Path:
        return self.state / "jwks.json"

    @property
    def last_good_dir(self) -> Path:
        return self.state / "last-good"

    @property
    def tasted_file(self) -> Path:
        return self.state / "tasted"

    @property
    def registrations(self) -> Path:
        return self.state / "workloads"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def ca_socket(self) -> Path:
        return self.run / "ca.sock"

    @property
    def xds_socket(self) -> Path:
        return self.run / "xds.sock"

    @property
    def mixer_socket(self) -> Path:
        return self.run / "mixer.sock"

    @property
    def mixer_logs(self) -> Path:
        return self.state / "mixer-logs"  # what rules log

    @property
    def xds_local_socket(self) -> Path:
        return self.run / "xds-local.sock"

    @property
    def net_socket(self) -> Path:
        return self.run / "net.sock"

    @property
    def traces_socket(self) -> Path:
        return self.run / "traces.sock"

    @property
    def taste_dir(self) -> Path:
        return self.run / "taste"

    def workload_dir(self, name: str) -> Path:
        """Return the folder of one workload's sockets and files; short, because socket paths are."""
        return self.state / "w" / name
