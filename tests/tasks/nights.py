"""The schedule of the worker processes of the tests: ``leaseq worker tests.tasks.nights:tasks``."""

import json
import sys

from leaseq import Backoff
from leaseq.tasks import TaskQueue, current_task

tasks = TaskQueue(name="nights", lease_timeout=3.0, backoff=Backoff(0.0))


@tasks.scheduled("every second", every=1, overlap="allow", catch_up="all")
@tasks.task
async def note() -> None:
    sys.stdout.write(json.dumps(["done", current_task().slot]) + "\n")
    sys.stdout.flush()
