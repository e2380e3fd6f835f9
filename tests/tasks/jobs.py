"""What the worker processes of the tests do. They say what they begin, and what they have done.

``leaseq worker tests.tasks.jobs:tasks --config ...``
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

import anyio
from anyio.lowlevel import current_token

from leaseq import Backoff
from leaseq.tasks import TaskQueue, current_task

LEASE = 1.5
"""Seconds until the tasks of a killed worker go to another one."""

WORKERS = """
workers:
  - id: anybody's
    max_concurrent_tasks: 2
    task_timeout_seconds: 1
  - id: one at a time
    max_concurrent_tasks: 1
  - id: two at a time
    max_concurrent_tasks: 2
  - id: the first
    assigned_users: [busy, small]
    steal_targets: [middle]
    max_concurrent_tasks: 1
  - id: the second
    assigned_users: [middle]
    steal_targets: [busy, small]
    max_concurrent_tasks: 1
"""

tasks = TaskQueue(name="jobs", lease_timeout=LEASE, backoff=Backoff(0.0))


def say(*words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


@tasks.task(result_ttl=60.0)
async def note(number: int = 0) -> int:
    say("done", current_task().tenant, number)
    return os.getpid()


@tasks.task(result_ttl=60.0)
async def linger(seconds: float) -> int:
    say("begun")
    await anyio.sleep(seconds)
    say("done")
    return os.getpid()


@tasks.task(result_ttl=60.0)
async def hang_once(mark: str) -> int:
    path = anyio.Path(mark)
    is_first = not await path.exists()
    await path.touch()
    say("begun")  # not before there is the mark: it may be killed from here on
    if is_first:
        await anyio.sleep_forever()
    say("done")
    return os.getpid()


@tasks.task(result_ttl=60.0, max_retries=1)
async def hang() -> None:
    say("begun")
    await anyio.sleep_forever()


@tasks.task(result_ttl=60.0, max_retries=2)
async def die() -> None:
    say("begun")
    os.kill(os.getpid(), signal.SIGKILL)


@tasks.task(result_ttl=60.0)
def toil(seconds: float) -> int:
    say("begun", "toil", os.getpid())
    time.sleep(seconds)
    say("ended", "toil", os.getpid())
    return os.getpid()


@tasks.task(result_ttl=60.0)
def leave() -> None:
    say("left")
    sys.exit(3)


@tasks.task(result_ttl=60.0)
async def leave_here() -> None:
    say("left")
    sys.exit(3)


@tasks.task(result_ttl=60.0)
async def leave_as_if_closed() -> None:
    say("left")
    raise BaseExceptionGroup("of a task group", [GeneratorExit()])


@tasks.task(result_ttl=60.0)
async def leave_by_a_cancellation() -> None:
    say("left")
    if hasattr(current_token().native_token, "create_task"):
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep(1)
    raise GeneratorExit


@tasks.task(result_ttl=60.0)
async def leave_in_a_task_of_its_own() -> None:
    say("left")

    async def leave() -> None:
        sys.exit(3)

    async with anyio.create_task_group() as tg:
        tg.start_soon(leave)
        await anyio.sleep_forever()
