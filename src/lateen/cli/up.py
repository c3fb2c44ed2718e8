"""`lateen up DIR`: the control plane, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from lateen.cli.fetching import add_fetch_arguments, fetch_options
from lateen.cli.mixer_adapters import add_adapters_argument
from lateen.cli.redis_argument import add_redis_argument, redis_of
from lateen.cli.units import parse_duration_argument, parse_listen_argument
from lateen.errors import BadInput
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="DIR", help="folder of YAML to watch")
    parser.add_argument(
        "--secrets", metavar="DIR", help="folder of Secrets to watch, mode 0700 (default: secrets in the state folder)"
    )
    parser.add_argument("--trust-domain", default="cluster.local", help="of all identities (default: %(default)s)")
    parser.add_argument(
        "--cert-ttl",
        metavar="DURATION",
        type=parse_duration_argument,
        help="life of workload certificates, as 24h or 10s (default: 24h)",
    )
    parser.add_argument(
        "--ca-certs",
        metavar="DIR",
        help="folder of a signing certificate and its roots to use and to watch: ca-cert.pem, ca-key.pem, "
        "cert-chain.pem, root-cert.pem, or tls.crt, tls.key, ca.crt (default: cacerts in the state folder, if there)",
    )
    parser.add_argument(
        "--authority",
        metavar="FILE",
        help="file that names an authority elsewhere which signs: a Vault, a signer of Kubernetes, or a class of a "
        "package; see docs/operations/external-authorities.md",
    )
    parser.add_argument(
        "--root-key",
        choices=("p256", "p384", "rsa2048", "rsa4096"),
        default="p256",
        help="key of self-signed roots that are made from now on (default: %(default)s)",
    )
    parser.add_argument(
        "--root-ttl",
        metavar="DURATION",
        type=parse_duration_argument,
        help="their life; a new one takes over when a fifth is left (default: 10 years)",
    )
    parser.add_argument(
        "--root-settle",
        metavar="DURATION",
        type=parse_duration_argument,
        help="how long a new root is believed at least before anything is signed by it (default: 30s, or three times "
        "--bundle-refresh where there is an endpoint)",
    )
    parser.add_argument(
        "--network",
        choices=("auto", "capture", "explicit"),
        default="auto",
        help="capture needs namespaces; explicit uses loopback and an HTTP proxy (default: what the machine can do)",
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        type=parse_listen_argument,
        help="serve agents elsewhere there, over TLS, as 10.0.0.1:15012; they join by 'lateen token create' "
        "(default: nowhere)",
    )
    bundle = parser.add_argument_group("bundle endpoint", "tells others what this mesh's identities are verified by")
    bundle.add_argument(
        "--bundle-endpoint",
        metavar="ADDRESS:PORT",
        type=parse_listen_argument,
        help="serve the SPIFFE bundle there over HTTPS (default: nowhere)",
    )
    bundle.add_argument(
        "--bundle-endpoint-cert", metavar="FILE", help="its certificate chain (default: the control plane's own SVID)"
    )
    bundle.add_argument("--bundle-endpoint-key", metavar="FILE", help="the key of that certificate")
    bundle.add_argument(
        "--bundle-refresh",
        metavar="DURATION",
        type=parse_duration_argument,
        help="how often others are to look for changes (default: 5m)",
    )
    parser.add_argument(
        "--metrics-listen",
        metavar="ADDRESS:PORT",
        type=parse_listen_argument,
        help="serve the metrics of all workloads there, for a Prometheus, as 127.0.0.1:15014; 'lateen "
        "prometheus-config' prints what that is told (default: nowhere)",
    )
    parser.add_argument(
        "--metrics-from",
        metavar="RANGE",
        action="append",
        default=[],
        help="addresses that may read there, beside this machine's loopback; may be repeated",
    )
    add_redis_argument(parser)
    add_adapters_argument(parser, "--mixer-adapters")
    add_fetch_arguments(parser)
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON")


def run(options: argparse.Namespace) -> int:
    # Imported here: the control plane's imports take half a second, its --help should not.
    from lateen.citadel.store import RootWish
    from lateen.pilot.serving.bundle_endpoint import DEFAULT_REFRESH, BundleEndpointOptions
    from lateen.pilot.serving.certificates import CertificateOptions
    from lateen.pilot.serving.control_plane import ControlPlaneOptions, run_control_plane
    from lateen.pilot.serving.metrics_endpoint import MetricsEndpointOptions
    from lateen.wire.readers import endpoint_readers

    endpoint = None
    if options.bundle_endpoint is not None:
        if bool(options.bundle_endpoint_cert) != bool(options.bundle_endpoint_key):
            raise BadInput("--bundle-endpoint-cert and --bundle-endpoint-key want each other")
        address, port = options.bundle_endpoint
        endpoint = BundleEndpointOptions(
            address=address,
            port=port,
            certificate=Path(options.bundle_endpoint_cert) if options.bundle_endpoint_cert else None,
            key=Path(options.bundle_endpoint_key) if options.bundle_endpoint_key else None,
            refresh=options.bundle_refresh or DEFAULT_REFRESH,
        )
    elif options.bundle_endpoint_cert or options.bundle_endpoint_key or options.bundle_refresh:
        raise BadInput("--bundle-endpoint-cert, --bundle-endpoint-key and --bundle-refresh want --bundle-endpoint")
    if options.authority and options.ca_certs:
        raise BadInput("--authority and --ca-certs exclude each other: one of them says what signs")
    metrics = None
    if options.metrics_listen is not None:
        address, port = options.metrics_listen
        metrics = MetricsEndpointOptions(address=address, port=port, readers=endpoint_readers(options.metrics_from))
    elif options.metrics_from:
        raise BadInput("--metrics-from wants --metrics-listen")
    settings = Settings.from_env(state=options.state)
    return asyncio.run(
        run_control_plane(
            settings,
            ControlPlaneOptions(
                config=Path(options.config),
                secrets=Path(options.secrets) if options.secrets else None,
                certificates=CertificateOptions(
                    trust_domain=options.trust_domain,
                    lifetime=options.cert_ttl,
                    bundle_endpoint=endpoint,
                    authority=Path(options.authority) if options.authority else None,
                    plugged=Path(options.ca_certs) if options.ca_certs else None,
                    settle=options.root_settle,
                    root=RootWish(options.root_key, options.root_ttl or RootWish().lifetime),
                ),
                fetch=fetch_options(options),
                redis=redis_of(options),
                adapters=options.adapters,
                network=options.network,
                listen=options.listen,
                metrics=metrics,
                log_json=options.log_json,
            ),
        )
    )
