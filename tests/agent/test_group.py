"""What a workload has of its WorkloadGroup, and what its user said comes first."""

from __future__ import annotations

from lateen.agent.group import apply_group
from lateen.agent.spec import WorkloadSpec
from lateen.wire.local import GroupInfo, Probe, WorkloadPort

GROUP = GroupInfo(
    name="vms",
    namespace="default",
    service_account="vm",
    labels={"app": "quotes", "version": "v3"},
    annotations={"team": "quotes"},
    ports={"grpc": 19000, "http": 8080, "web": 9080},
    locality="eu/eu-1",
    network="dc-east",
    weight=2,
    probe=Probe(kind="tcp", port=8080),
)


def port(name: str, number: int) -> WorkloadPort:
    return WorkloadPort(name=name, number=number, target=number)


def test_what_is_not_said_is_the_groups() -> None:
    spec = apply_group(WorkloadSpec(name="vms-1", group="vms", argv=("x",)), GROUP)
    assert spec == WorkloadSpec(
        name="vms-1",
        group="vms",
        argv=("x",),
        service_account="vm",
        labels={"app": "quotes", "version": "v3"},
        annotations={"team": "quotes"},
        ports=(port("grpc", 19000), port("http", 8080), port("web", 9080)),
        locality="eu/eu-1",
        network="dc-east",
        weight=2,
        probe=GROUP.probe,
    )


def test_what_is_said_comes_first() -> None:
    said = WorkloadSpec(
        name="vms-1",
        group="vms",
        labels={"version": "v4", "zone": "a"},
        ports=(port("http", 8000), port("mine", 9080)),
        locality="us/us-1",
        network="dc-west",
    )
    spec = apply_group(said, GROUP)
    assert spec.labels == {"app": "quotes", "version": "v4", "zone": "a"}
    # Neither a name nor a number twice.
    assert spec.ports == (port("http", 8000), port("mine", 9080), port("grpc", 19000))
    assert (spec.locality, spec.network) == ("us/us-1", "dc-west")
