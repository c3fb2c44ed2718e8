"""A mesh to measure: services, two workloads each, and the files and registrations that bring it about.

Every service is one core/v1 Service and one DestinationRule with two subsets; its two workloads run version v1 and v2.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from lateen.net.process import start_ticks
from lateen.settings import Settings
from lateen.wire.files import write_atomically
from lateen.wire.local import Registration, WorkloadPort

__all__ = [
    "ACCOUNT",
    "PORT",
    "destination_rule",
    "registration",
    "service",
    "virtual_service",
    "workload_names",
    "write",
]

PORT = 9080
ACCOUNT = "bench"
VERSIONS = ("v1", "v2")


def service_name(number: int) -> str:
    return f"svc-{number:04d}"


def service(number: int, *, labels: str = "") -> str:
    name = service_name(number)
    extra = f", labels: {{{labels}}}" if labels else ""
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}{extra}}}\n"
        f"spec: {{ports: [{{port: {PORT}, name: http}}], selector: {{app: {name}}}}}\n"
    )


def destination_rule(number: int) -> str:
    name = service_name(number)
    return (
        f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\n"
        f"spec:\n  host: {name}\n  subsets:\n"
        + "".join(f"  - {{name: {version}, labels: {{version: {version}}}}}\n" for version in VERSIONS)
    )


def virtual_service(number: int, weight: int) -> str:
    """Return a canary: `weight` percent of the requests go to v2."""
    name = service_name(number)
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n"
        f"spec:\n  hosts: [{name}]\n  http:\n  - route:\n"
        f"    - {{destination: {{host: {name}, subset: v1}}, weight: {100 - weight}}}\n"
        f"    - {{destination: {{host: {name}, subset: v2}}, weight: {weight}}}\n"
    )


def workload_names(services: int) -> list[str]:
    return [f"{service_name(number)}-{version}" for number in range(services) for version in VERSIONS]


def registration(name: str, *, ready: bool = True, ip: str = "") -> Registration:
    """Return what an agent would register; this process stands for the agent, because a living one is asked for."""
    app, _, version = name.rpartition("-")
    number = int(app.rpartition("-")[2]) * len(VERSIONS) + VERSIONS.index(version)
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    return Registration(
        name=name,
        service_account=ACCOUNT,
        service=app,
        version=version,
        labels={"app": app, "version": version},
        ip=ip or f"10.77.{1 + number // 250}.{1 + number % 250}",
        ports=(WorkloadPort(name="http", number=PORT, target=PORT),),
        ready=ready,
        pid=os.getpid(),
        start_ticks=ticks,
    )


def write(config: Path, settings: Settings, services: int) -> None:
    """Write the config folder and the registrations of a mesh whose control plane does not run yet."""
    config.mkdir(parents=True)
    for number in range(services):
        (config / f"{service_name(number)}.yaml").write_text(service(number) + "---\n" + destination_rule(number))
    (config / "canary.yaml").write_text(virtual_service(0, 10))
    settings.registrations.mkdir(parents=True, mode=0o700)
    for name in workload_names(services):
        write_atomically(settings.registrations / f"{name}.json", msgspec.json.encode(registration(name)))
