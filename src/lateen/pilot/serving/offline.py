"""Judge configuration without a mesh: what the control plane would say of these files, and nothing else.

The same code decodes, keeps the books of files and takes the resources as in `lateen up`. With a taster, what would
follow for representative proxies is translated and given to a real Envoy, too: a sidecar for each selector of a
service, one of no service in each namespace, and a gateway for each selector of a Gateway.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lateen.api.base import Object, Problem
from lateen.api.decode import MAX_FILE_BYTES, decode_documents
from lateen.errors import BadInput, Unavailable
from lateen.folders.folder import Folder
from lateen.folders.watch import read_changes, scan
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.tasting import Judge, Tasting
from lateen.pilot.xds.source import Identity, NodeInfo

__all__ = ["STDIN", "Offline", "read_files"]

STDIN = "-"


def read_files(paths: Iterable[str]) -> dict[str, bytes | OSError | None]:
    """Return the contents of files, of all YAML below folders, and of standard input (`-`), by how they are shown.

    Raises `BadInput` for a path that is neither.
    """
    found: dict[str, bytes | OSError | None] = {}
    for path in paths:
        if path == STDIN:
            found["<stdin>"] = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        elif Path(path).is_dir():
            found.update(read_changes({}, scan(Path(path))))
        elif Path(path).exists():
            stamp = Path(path).stat()
            found.update(read_changes({}, {path: (stamp.st_ino, stamp.st_mtime_ns, stamp.st_size)}))
        else:
            raise BadInput(f"{path} is neither a file nor a folder")
    return found


class Offline:
    """What one set of files comes to."""

    def __init__(self, files: Mapping[str, bytes | OSError | None], *, trust_domain: str = "cluster.local") -> None:
        self._folder = Folder(decode_documents)
        self._trust_domain = trust_domain
        changes = self._folder.write(files)
        self.objects: tuple[Object, ...] = tuple(change.obj for change in changes if change.obj is not None)
        self.files = len(files)
        self._pilot = Pilot(trust_domain=trust_domain, vips=VipTable())
        self._pilot.apply(changes)

    def problems(self) -> list[Problem]:
        """Return every problem, by file and line: what is wrong, what does not act, what refers to nothing here."""
        # What is not among these files may well be in the mesh.
        findings = {*self._pilot.findings.problems(self._pilot.mesh.objects.get)}
        told = {replace(finding, level="warning") for finding in findings}
        found = {*self._folder.problems(), *self._pilot.problems()} - findings | told
        return sorted(found, key=lambda p: (p.file, p.line, p.field, p.message))

    async def taste(self, judge: Judge) -> None:
        """Have all that would be served judged; `problems` then tells what Envoy refuses. Raises `Unavailable`."""
        pilot = self._pilot
        tasting = Tasting(pilot.source, pilot.scopes, pilot.gate, judge)
        try:
            workloads = {workload.name: workload for workload in self._representatives()}
            pilot.source.ready = True
            pilot.apply([], workloads)
            for workload in workloads.values():
                word = "router" if workload.kind == "gateway" else "sidecar"
                node = NodeInfo(id=f"{word}~{workload.ip}~{workload.name}.{workload.namespace}~offline")
                pilot.source.connect(node, Identity(None))
            await pilot.source.settled()
            if tasting.fault:
                raise Unavailable(f"not tasted: {tasting.fault}")
        finally:
            await tasting.close()

    def _representatives(self) -> Iterator[Workload]:
        mesh = self._pilot.mesh
        seen: set[tuple[str, str, tuple[tuple[str, str], ...]]] = set()
        wanted: list[tuple[str, str, tuple[tuple[str, str], ...], tuple[tuple[str, int, int], ...]]] = []
        for _, service in mesh.services.items():
            if service.selector:
                ports = tuple(
                    (port.name, port.number, port.target if isinstance(port.target, int) else port.number)
                    for port in service.ports
                )
                wanted.append(("sidecar", service.namespace, tuple(service.selector), ports))
        namespaces = {"default", *(obj.key.namespace for obj in self.objects if obj.key.namespace)}
        wanted.extend(("sidecar", namespace, (), ()) for namespace in sorted(namespaces))
        for obj in self.objects:
            if obj.key.kind == "Gateway":
                selector = tuple(sorted((obj.spec.selector or {}).items()))
                wanted.append(("gateway", obj.key.namespace, selector, ()))
        for kind, namespace, labels, ports in wanted:
            if (kind, namespace, labels) in seen:
                continue
            seen.add((kind, namespace, labels))
            number = len(seen)
            yield Workload(
                name=f"representative-{number}",
                kind=kind,
                namespace=namespace,
                service_account="default",
                service="",
                labels=dict(labels),
                ip=f"10.77.{number // 250}.{number % 250 + 1}",
                ports=ports,
                ready=True,
            )
