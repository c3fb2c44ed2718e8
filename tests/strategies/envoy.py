"""Random meshes before a real Envoy: what it refuses of all that follows for every proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.strategies.mend import accepted
from tests.strategies.mesh import SmallMesh

from lateen.api.base import Object
from lateen.api.encode import encode_object
from lateen.pilot.taste.book import Book
from lateen.pilot.taste.probe import JUDGED
from lateen.pilot.taste.taster import Taster
from lateen.pilot.xds.source import Resource


@dataclass(slots=True)
class Rejection:
    """What Envoy refused, its words, and the resources that were there."""

    type_url: str
    name: str
    words: str
    objects: tuple[Object, ...]

    def __str__(self) -> str:
        resources = "\n".join(json.dumps(encode_object(obj)) for obj in self.objects)
        return f"{self.type_url.rpartition('.')[2]} {self.name}: {self.words}\n{resources}"


@dataclass(slots=True)
class Critic:
    """One Envoy for many meshes; contents that it knows are not given to it again."""

    taster: Taster
    loop: asyncio.AbstractEventLoop
    book: Book = field(default_factory=Book)
    resources: int = 0  # of the API, that the checks took
    contents: int = 0  # of Envoy, different ones

    def rejections(self, drawn: Iterable[dict[str, Any]]) -> list[Rejection]:
        """Return what follows from random resources and is refused; what fails to translate raises."""
        objects = {obj.key: obj for one in drawn if (obj := accepted(one)) is not None}
        self.resources += len(objects)
        mesh = SmallMesh(objects.values())
        mesh.connect()
        for error in mesh.pilot.graph.errors.values():
            raise error
        new: dict[str, tuple[str, Resource]] = {}
        for _, type_url, resource in mesh.served():
            if type_url in JUDGED and self.book.verdict(resource.version) is None:
                new[resource.version] = (type_url, resource)
        verdicts = self.loop.run_until_complete(self.taster.taste(list(new.values())))
        assert verdicts.keys() == new.keys()
        self.contents += len(new)
        for version in new:
            self.book.write(version, verdicts[version])
        return [
            Rejection(type_url, resource.name, verdicts[version], tuple(objects.values()))
            for version, (type_url, resource) in new.items()
            if verdicts[version]
        ]


@contextmanager
def critic(folder: Path) -> Iterator[Critic]:
    with asyncio.Runner() as runner:
        taster = Taster(folder)
        runner.run(taster.__aenter__())
        try:
            yield Critic(taster, runner.get_loop())
        finally:
            runner.run(taster.__aexit__())
