"""Processes of the tests' own, which say what they do in lines of JSON, and may be killed."""

import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from anyio import Event, create_task_group, fail_after
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

ROOT = Path(__file__).parent.parent


class Child:
    """A process, and the lines that it has said."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.lines: list[list[Any]] = []
        self._more = Event()
        self._silent = Event()

    def kill(self) -> None:
        """As ``kill -9`` does."""
        with suppress(ProcessLookupError):  # it is dead
            self._process.kill()

    def freeze(self) -> None:
        """Stop it where it is, as the kernel of a machine that is out of breath does."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Ask it to end, as an operator does."""
        self._process.send_signal(signal.SIGTERM)

    async def ended(self, *, within: float = 30) -> int:
        """Wait until it has ended and all that it said was read, for so many seconds at most."""
        with fail_after(within):
            code = await self._process.wait()
            await self._silent.wait()
            return code

    async def listen(self) -> None:
        assert self._process.stdout is not None
        rest = ""
        async for text in TextReceiveStream(self._process.stdout):
            *lines, rest = (rest + text).split("\n")
            self.lines += map(json.loads, lines)
            self._more.set()
            self._more = Event()
        self._silent.set()

    async def until(self, said: Callable[[list[list[Any]]], bool]) -> None:
        """Wait for what it is to say, for half a minute at most."""
        with fail_after(30):
            while not said(self.lines):
                await self._more.wait()

    async def say_more(self) -> None:
        """Wait until it has said some more than now."""
        heard = len(self.lines)
        await self.until(lambda lines: len(lines) > heard + 10)


@asynccontextmanager
async def start(*arguments: str) -> AsyncIterator[Child]:
    """Run Python with these, in the root of the project, and kill it in the end."""
    command = [sys.executable, *arguments]
    async with await anyio.open_process(command, stderr=None, cwd=ROOT) as process:
        child = Child(process)
        async with create_task_group() as tg:
            tg.start_soon(child.listen)
            try:
                yield child
            finally:
                child.kill()
