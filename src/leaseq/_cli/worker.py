"""``leaseq worker``: one worker of a module's tasks. Needs typer."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import typer

from .._connect import connect
from .._core.errors import LeaseqError
from .._pool import stop_on_signals
from ..abc import Broker
from ..tasks._config import WorkerConfig
from ..tasks._handler import TaskHandler
from ..tasks._queue import TaskQueue, source_of
from ..tasks._worker import TaskWorker

__all__ = ["worker"]

T = TypeVar("T")

logger = logging.getLogger("leaseq")


class Backend(StrEnum):
    """The event loops that a worker runs on."""

    ASYNCIO = "asyncio"
    TRIO = "trio"


class LogLevel(StrEnum):
    """What is logged, and all that is worse."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _installed(backend: Backend) -> Backend:
    if importlib.util.find_spec(backend) is None:
        raise typer.BadParameter(f"{backend} is not installed: pip install 'leaseq[{backend}]'")
    return backend


def worker(
    tasks: Annotated[
        str, typer.Argument(help="Where the TaskQueue is: app.module:tasks.", metavar="TASKS")
    ],
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The configuration, in YAML or TOML."),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            help="Which of its workers to be. Without a configuration: what to be called.",
            show_default="the only one",
        ),
    ] = None,
    handler: Annotated[
        str | None,
        typer.Option(help="A TaskHandler, or its class: app.module:MyHandler."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="LEASEQ_URL",
            help="Where the queues live.",
            show_default="as the configuration or the module says",
        ),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(callback=_installed, help="The event loop.")
    ] = Backend.ASYNCIO,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged.")] = LogLevel.INFO,
) -> None:
    """Do the tasks of a module, until SIGTERM or Ctrl-C: then finish what runs, and end.

    The module registers functions with a TaskQueue, which is named after the colon. A second signal
    ends the worker at once: what it was doing goes to another one when its lease is over.
    """
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = _read(config)
    queue = _import(tasks, TaskQueue, "TASKS")
    task_handler = None if handler is None else _import(handler, TaskHandler, "--handler")
    name = worker
    if settings is None:
        settings = WorkerConfig.create_default(name or f"{socket.gethostname()}-{os.getpid()}")
        name = None
    try:
        task_worker = TaskWorker.from_config(queue, settings, name, task_handler)
    except (LookupError, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--worker") from None
    broker = _broker(queue, url, settings)
    try:
        anyio.run(_run, queue, task_worker, broker, backend=backend.value)
    except* KeyboardInterrupt:  # on trio in the groups of the task groups it went through
        raise KeyboardInterrupt from None
    except* (LeaseqError, OSError) as group:
        for each in _leaves(group):
            typer.echo(f"the worker has ended: {type(each).__name__}: {each}", err=True)
        raise typer.Exit(1) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _read(path: Path | None) -> WorkerConfig | None:
    try:
        return None if path is None else WorkerConfig.from_file(path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--config") from None


def _import(where: str, kind: type[T], parameter: str) -> T:
    """What is meant by ``app.module:name``, said by who started the worker."""
    module_name, _, name = where.partition(":")
    if not module_name or not name:
        raise typer.BadParameter(f"write app.module:name, not {where!r}", param_hint=parameter)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise typer.BadParameter(
            f"there is no module {error.name!r}, here or installed", param_hint=parameter
        ) from None
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, kind):
        found = found()
    if not isinstance(found, kind):
        names = [name for name, each in vars(module).items() if isinstance(each, kind)]
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise typer.BadParameter(
            f"{name!r} of {module_name!r} is not a {kind.__name__}: {has}", param_hint=parameter
        )
    return found


def _broker(queue: TaskQueue, url: str | None, settings: WorkerConfig) -> Broker | None:
    """What the tasks are in; None: the module has said it."""
    url = url or settings.broker_url
    if queue.bound:
        if url is not None:
            raise typer.BadParameter(
                f"{queue!r} has its broker from its module: leave the URL out, or let the module "
                "make the TaskQueue without a broker",
                param_hint="--url",
            )
        return None
    if url is None:
        raise typer.BadParameter(
            "say where the queues live: here, in LEASEQ_URL, or in the configuration",
            param_hint="--url",
        )
    try:
        return connect(url)
    except (LeaseqError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


async def _run(queue: TaskQueue, task_worker: TaskWorker, broker: Broker | None) -> None:
    if broker is not None:
        with queue.bind(broker):
            await _work(queue, task_worker)
    else:
        await _work(queue, task_worker)


async def _work(queue: TaskQueue, task_worker: TaskWorker) -> None:
    stop = anyio.Event()

    async def stop_the_worker() -> None:
        await stop.wait()
        task_worker.stop()

    async with anyio.create_task_group() as tg, source_of(queue) as source:
        await tg.start(source.run)
        await tg.start(stop_on_signals, stop)
        tg.start_soon(stop_the_worker)
        logger.info("%r does %d functions", task_worker, len(queue.functions))
        await task_worker.run()
        logger.info("%r has ended", task_worker)
        tg.cancel_scope.cancel()
