"""Calls that block: bounded in number, waited for by nobody who has given up, and no hindrance to the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from lateen.fetch.threads import Threads


async def test_what_comes_back_and_what_is_raised() -> None:
    threads = Threads(2)
    assert await threads.run(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await threads.run(int, "x")


async def test_a_call_that_hangs_takes_its_place_until_it_ends() -> None:
    threads, free = Threads(2), threading.Event()
    hanging = [asyncio.create_task(threads.run(free.wait, 10)) for _ in range(2)]
    await asyncio.sleep(0)
    for task in hanging:
        task.cancel()  # who asked has given up; the threads go on
    await asyncio.gather(*hanging, return_exceptions=True)
    third = asyncio.create_task(threads.run(int, "3"))
    await asyncio.sleep(0.05)
    assert not third.done()
    free.set()
    assert await asyncio.wait_for(third, 5) == 3


def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    program = (
        "import asyncio, threading; from lateen.fetch.threads import Threads\n"
        "async def main():\n"
        "    task = asyncio.create_task(Threads(1).run(threading.Event().wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=False).returncode == 0
