"""Tasks whose functions run in processes: the task as it goes there, and what comes back."""

from __future__ import annotations

from typing import Any

import msgspec

from .._core.functions import check_has_run_sync
from .._core.process_pool import Processes, main_module, place_of
from .._core.texts import shown
from .._core.worker_process import find
from ._backend import Backend
from ._context import Run, enter_run, leave_run
from ._errors import TaskDataError, ValueTooLargeError
from ._task import Definition, TaskFunction, decode_task, encode_task

_Outcome = tuple[bytes, dict[str, tuple[bytes, float]] | None]
"""The result of a task as JSON, and its pushes as `Run` has them."""


async def execute_elsewhere(run: Run, definition: Definition, processes: Processes) -> Any:
    """Have a process call the function of a task, and return its result as JSON has it."""
    backend = run.backend
    place = place_of(definition.function)
    document: dict[str, Any] = {
        "function": place,
        "id": run.task.id,
        "workflow": run.workflow,
        "keeps_result": definition.terms.keeps_result,
        "queue": [backend.name, backend.xcom_ttl, backend.value_limit, backend.keeps],
    }
    if place[0] == "__main__":
        document["main"] = main_module()
    body = msgspec.json.encode(encode_task(run.task))
    answer, rest = await processes.call("leaseq.tasks._task_in_process:run_task", document, body)
    refusal = answer["result"].get("refusal")
    if refusal is not None:
        raise (ValueTooLargeError if refusal[0] else TaskDataError)(refusal[1])
    data, run.pushes = msgspec.msgpack.decode(rest, type=_Outcome)
    return msgspec.json.decode(data)


def run_task(document: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    """Run a task, in a process: `Processes.call` runs this there."""
    name, xcom_ttl, value_limit, keeps = document["queue"]
    found = find(document["function"], document.get("main"))
    if not isinstance(found, TaskFunction):
        raise TypeError(
            f"{shown(found)} is found under the name of a task, and is not one: decorate the "
            "function where it is defined"
        )
    task = decode_task(document["id"], msgspec.json.decode(body), {found.name: found})
    task = msgspec.structs.replace(task, workflow=document["workflow"], function=found)
    backend = Backend(name, xcom_ttl, value_limit, 0.0, {})
    backend.elsewhere_keeps = keeps
    run = Run(task, backend)
    signature = found._definition.signature
    token = enter_run(run)
    try:
        args, kwargs = signature.unbind(task.arguments)
        result = found.__wrapped__(*args, **kwargs)
        check_has_run_sync(result)
        data = signature.json_result(result) if document["keeps_result"] else b"null"
    except TaskDataError as error:
        return {"refusal": [isinstance(error, ValueTooLargeError), str(error)]}, b""
    finally:
        leave_run(token)
    return {}, msgspec.msgpack.encode([data, run.pushes])
