"""``leaseq worker``: one worker for the tasks of a module. Needs typer."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import typer

from .._connect import connect
from .._core.errors import LeaseqError
from .._core.texts import failure_text, leaves
from .._pool import stop_on_signals
from ..abc import Broker
from ..tasks._config import WorkerConfig
from ..tasks._handler import TaskHandler
from ..tasks._queue import TaskQueue, source_of
from ..tasks._worker import TaskWorker
from .common import EventLoop, EventLoopOption

T = TypeVar("T")

logger = logging.getLogger("leaseq")


class LogLevel(StrEnum):
    """Lowest level of the records that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def worker(
    tasks: Annotated[
        str,
        typer.Argument(help="Module and name of the TaskQueue: app.module:tasks.", metavar="TASKS"),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="File of the configuration, in YAML or TOML."
        ),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            help="Id of a worker of the configuration. Without a configuration: any name.",
            show_default="the only one",
        ),
    ] = None,
    handler: Annotated[
        str | None,
        typer.Option(
            help="Module and name of a TaskHandler, or of its class: app.module:MyHandler."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="LEASEQ_URL",
            help="URL of the broker.",
            show_default="from the configuration or the module",
        ),
    ] = None,
    backend: EventLoopOption = EventLoop.ASYNCIO,
    log_level: Annotated[
        LogLevel, typer.Option(help="Lowest level of records that are logged.")
    ] = LogLevel.INFO,
) -> None:
    """Run the tasks of a module until SIGTERM or Ctrl-C; then finish the running ones and exit.

    The module registers functions with a TaskQueue, whose name follows the colon. A second Ctrl-C
    cancels the running tasks, which go back uncounted. A second SIGTERM ends the process: its tasks
    go to another worker when their leases expire.
    """
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = _read_config(config)
    queue = _import_object(tasks, TaskQueue, "TASKS")
    task_handler = None if handler is None else _import_object(handler, TaskHandler, "--handler")
    name = worker
    if settings is None:
        settings = WorkerConfig.create_default(name or f"{socket.gethostname()}-{os.getpid()}")
        name = None
    try:
        task_worker = TaskWorker.from_config(queue, settings, name, task_handler)
    except (LookupError, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--worker") from None
    broker = _make_broker(queue, url, settings)
    try:
        anyio.run(_run, queue, task_worker, broker, backend=backend.value)
    except BaseException as error:
        found = [*leaves(error)]  # trio raises an interrupt in the groups of its nurseries
        if any(isinstance(each, KeyboardInterrupt) for each in found):
            raise KeyboardInterrupt from None
        if not all(isinstance(each, LeaseqError | OSError) for each in found):
            raise
        for each in found:
            typer.echo(f"the worker has ended: {failure_text(each)}", err=True)
        raise typer.Exit(1) from None


def _read_config(path: Path | None) -> WorkerConfig | None:
    try:
        return None if path is None else WorkerConfig.from_file(path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--config") from None


def _import_object(path: str, kind: type[T], parameter: str) -> T:
    """Return the object at ``app.module:name``; of a class, a new instance.

    Raises:
        BadParameter: There is no such object, or it is of another kind.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise typer.BadParameter(f"write app.module:name, not {path!r}", param_hint=parameter)
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


def _make_broker(queue: TaskQueue, url: str | None, settings: WorkerConfig) -> Broker | None:
    """Return the broker of the tasks; None if the module has bound one.

    Raises:
        BadParameter: There is no usable URL, or one too many.
    """
    url = url or settings.broker_url
    if queue.bound:
        if url is not None:
            raise typer.BadParameter(
                f"{queue!r} has its broker from its module: leave the URL out, or have the module "
                "make the TaskQueue without a broker",
                param_hint="--url",
            )
        return None
    if url is None:
        raise typer.BadParameter(
            "give the URL of the broker: here, in LEASEQ_URL, or in the configuration",
            param_hint="--url",
        )
    try:
        return connect(url)
    except (LeaseqError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


async def _run(queue: TaskQueue, task_worker: TaskWorker, broker: Broker | None) -> None:
    if broker is not None:
        with queue.bind(broker):
            await _run_until_stopped(queue, task_worker)
    else:
        await _run_until_stopped(queue, task_worker)


async def _run_until_stopped(queue: TaskQueue, task_worker: TaskWorker) -> None:
    stop = anyio.Event()

    async def stop_worker() -> None:
        await stop.wait()
        task_worker.stop()

    async with anyio.create_task_group() as tg, source_of(queue) as source:
        await tg.start(source.run)
        await tg.start(stop_on_signals, stop)
        tg.start_soon(stop_worker)
        logger.info("%r runs the tasks of %d functions", task_worker, len(queue.functions))
        await task_worker.run()
        logger.info("%r has ended", task_worker)
        tg.cancel_scope.cancel()
