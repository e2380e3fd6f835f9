"""Handlers and tasks that tests run in processes: they are found there by their names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaseq import Lease, Reject
from leaseq.tasks import TaskQueue, current_task, xcom_pull_sync, xcom_push

tasks = TaskQueue(name="elsewhere")


@dataclass
class Page:
    url: str


def describe(lease: Lease[Any, Any]) -> list[Any]:
    return [
        os.getpid(),
        type(lease.key).__name__,
        lease.value,
        lease.token,
        lease.deliveries,
        lease.tenant,
        lease.queue.name,
        lease.deadline,
    ]


def url_of(lease: Lease[Any, Page]) -> str:
    assert type(lease.value) is Page
    return lease.value.url


def fail(lease: Lease[Any, str]) -> object:
    match lease.value:
        case "value":
            raise ValueError("bad\x1b[31m\nvalue")
        case "deep":
            error: Exception = ValueError("deep")
            for _ in range(5_000):
                error = ExceptionGroup("more", [error])
            raise error
        case "exit":
            sys.exit(3)
        case "reject":
            raise Reject("no good")
        case "ack":
            lease.queue.ack(lease)  # type: ignore[unused-coroutine]
        case "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hard exit":
            os._exit(7)
        case "closing":
            os.closerange(3, 64)
            time.sleep(12)
        case "fork":
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        case "fork without end":
            os.fork()
        case "closed output":
            sys.stdout.close()
        case "no output":
            sys.stdout = None  # type: ignore[assignment]
        case "full output":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stdout.write("more")
        case "closed streams":
            sys.stdout.close()
            sys.stderr.close()
            for number in range(3):
                os.close(number)
        case "print":
            print("to one")  # noqa: T201
            print("to the other", file=sys.stderr)  # noqa: T201
            os.fstat(0)
            os.write(1, b"to one\n")
            os.write(2, b"to the other\n")
        case "no files":
            import resource

            resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
            Path(os.devnull).read_bytes()
        case "file":
            Path(os.devnull).read_bytes()
        case "generator":
            return (x for x in [1])
    return None


def here(_: object, body: bytes) -> tuple[int, bytes]:
    return os.getpid(), body


def spin(lease: Lease[Any, str]) -> None:
    """Leave a mark, and compute without end."""
    mark = Path(lease.value)
    draft = mark.with_name(f"{mark.name}.{os.getpid()}")
    draft.write_text(str(os.getpid()))
    draft.replace(mark)
    while True:
        pass


def start_a_program(lease: Lease[Any, str]) -> None:
    """Leave a mark with a program, which is waited for."""
    program = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    subprocess.run([sys.executable, "-c", program, lease.value], check=True)


def keep_the_interpreter(lease: Lease[Any, str]) -> None:
    """Leave a mark, and let no other thread have a turn."""
    Path(lease.value).write_text(str(os.getpid()))
    re.match("(a+)+$", "a" * 40 + "b")


def nothing(lease: Lease[Any, Any]) -> None:
    pass


@tasks.task(run_in="process", result_ttl=60.0, xcom_key="sum")
def add(numbers: list[int], page: Page) -> dict[str, Any]:
    xcom_push("page", page)
    sys.stdout.write("printed in a process\n")  # which is no answer
    return {"sum": sum(numbers), "url": page.url, "id": current_task().id, "pid": os.getpid()}


@tasks.task(run_in="process", max_retries=0)
def pull() -> None:
    xcom_pull_sync("page")


@tasks.task(run_in="process", max_retries=1)
def spin_on(mark: str) -> None:
    class Given:
        value = mark

    spin(Given())  # type: ignore[arg-type]


@tasks.task(run_in="process", max_retries=1)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@tasks.task(run_in="process", max_retries=0)
def raise_it() -> None:
    raise LookupError("no such order")
