"""`lateen mixer serve --channel` with a court that takes any rules and admits everybody but `.../sa/bad`.

What runs is the real process: channel, identity, socket, heartbeat. `python -m tests.fakes.mixer_serve --channel 0
--listen unix:PATH`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence

from tests.fakes.mixer_child import Read

from lateen.api.base import Object, Problem
from lateen.mixer.process import MixerOptions, run_mixer
from lateen.mixer.services.answers import ALLOWED, Outcome
from lateen.mixer.services.places import Bag
from lateen.wire.mixer import Asker


class AnyCourt:
    reads = (Read("source.principal"),)

    def __init__(self) -> None:
        self._rules: Sequence[Object] = ()

    def judge(self, rules: Sequence[Object]) -> AnyCourt:
        self._rules = rules
        return self

    def problems(self) -> Sequence[Problem]:
        return [Problem(rule.origin.file, rule.origin.line, "spec", "seen", "warning") for rule in self._rules]

    def metrics(self) -> str:
        return f"fake_rules {len(self._rules)}\n"

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        return

    async def decide(self, bag: Bag, asker: Asker, *, tcp: bool) -> Outcome:
        bad = bag.get("source", {}).get("principal", "").endswith("/sa/bad")
        return Outcome(allowed=False, rule="default/no-bad") if bad else ALLOWED

    async def limit(self, bag: Bag, asker: Asker, domain: str, hits: int) -> Outcome:
        return ALLOWED

    def report(self, bags: Sequence[Bag], asker: Asker, *, tcp: bool) -> None:
        return


def main(words: Sequence[str]) -> int:
    options = dict(zip(words[::2], words[1::2], strict=True))
    channel = socket.socket(fileno=os.dup(int(options["--channel"])))
    return asyncio.run(run_mixer(MixerOptions(listen=options["--listen"], channel=channel), AnyCourt()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
