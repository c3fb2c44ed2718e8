"""A Mixer whose rules are few and fixed, as a process: `python -m tests.fakes.mixer_child FOLDER`.

The services, their server and its TLS are the real ones. It denies connections and requests of `.../sa/bad`, and
requests whose header `x-verdict` is `no`; what is reported to it goes into `FOLDER/reports.jsonl`, who asked into
`FOLDER/askers.jsonl`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lateen.mixer.http2.server import GrpcServer
from lateen.mixer.services.answers import ALLOWED, Outcome
from lateen.mixer.services.places import Bag
from lateen.mixer.services.service import MixerServices
from lateen.wire.memory_tls import server_context
from lateen.wire.mixer import Asker


class Read(NamedTuple):
    attribute: str
    key: str | None = None


class FixedRules:
    reads = (
        *(Read("source.principal"), Read("source.namespace"), Read("source.ip"), Read("source.workload.name")),
        *(Read("request.headers", "x-verdict"), Read("request.id"), Read("request.path"), Read("origin.ip")),
        *(Read("destination.principal"), Read("destination.workload.name"), Read("destination.service.host")),
        *(
            Read("response.code"),
            Read("connection.received.bytes"),
            Read("context.reporter.uid"),
            Read("connection.id"),
        ),
    )

    def __init__(self, folder: Path) -> None:
        self._reports = (folder / "reports.jsonl").open("a", buffering=1)
        self._asked = (folder / "askers.jsonl").open("a", buffering=1)

    async def decide(self, bag: Bag, asker: Asker, *, tcp: bool) -> Outcome:
        self._asked.write(json.dumps({"bag": bag, "rules": asker.rules, "tcp": tcp}, default=str) + "\n")
        verdict = bag.get("request", {}).get("headers", {}).get("x-verdict")
        if bag.get("source", {}).get("principal", "").endswith("/sa/bad") or verdict == "no":
            return Outcome(allowed=False, status=403, body="no", rule="default/no-bad")
        return ALLOWED

    async def limit(self, bag: Bag, asker: Asker, domain: str, hits: int) -> Outcome:
        return ALLOWED

    def report(self, bags: Sequence[Bag], asker: Asker, *, tcp: bool) -> None:
        for bag in bags:
            self._reports.write(json.dumps({"bag": bag, "rules": asker.rules, "tcp": tcp}, default=str) + "\n")


async def main(folder: Path) -> None:
    services = MixerServices(FixedRules(folder), mutual_tls=True)
    certificate, key, bundle = ((folder / f"mixer-{part}.pem").read_bytes() for part in ("cert", "key", "bundle"))
    context = server_context(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=bundle.decode())
    context.set_alpn_protocols(["h2"])
    await GrpcServer(services.methods(), context=lambda: context).listen(f"unix:{folder}/mixer.sock")
    await services.reports.run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
