"""``leaseq worker``: one worker for the tasks of a module. Needs typer."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import typer
from anyio.abc import TaskStatus
from anyio.lowlevel import current_token

from .._connect import connect, file_of
from .._core.errors import LeaseqError
from .._core.functions import threads_at_work
from .._core.texts import failure_text, leaves
from ..abc import Broker, LeasedQueue
from ..tasks._config import WorkerConfig
from ..tasks._handler import TaskHandler
from ..tasks._queue import TaskQueue, source_of
from ..tasks._worker import TaskWorker
from .common import EventLoop, EventLoopOption, import_from
from .text import printable

T = TypeVar("T")

_POLL = 0.02  # seconds between two looks whether only threads are left
_GRACE = 5.0  # seconds for cancelled tasks to end, and for the server to take them back

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
    cancels the running tasks, which go back uncounted, and ends the process. A second SIGTERM, or a
    third signal, ends it immediately: its tasks go to another worker when their leases expire. So
    do, after a second Ctrl-C, functions in threads, which cannot be cancelled, and tasks that have
    not ended five seconds after they were cancelled.
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
        anyio.run(
            _run,
            queue,
            task_worker,
            broker,
            backend=backend.value,
            backend_options=_backend_options(backend),
        )
    except BaseException as error:
        found = [*leaves(error)]  # trio raises an interrupt in the groups of its nurseries
        if any(isinstance(each, KeyboardInterrupt) for each in found):
            raise KeyboardInterrupt from None
        if not all(isinstance(each, LeaseqError | OSError) for each in found):
            raise
        for each in found:
            typer.echo(f"the worker has ended: {printable(failure_text(each))}", err=True)
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
    module, found = import_from(path, parameter)
    if isinstance(found, type) and issubclass(found, kind):
        found = found()
    if not isinstance(found, kind):
        module_name, _, name = path.partition(":")
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
        path = file_of(url)
        if path is not None and not path.exists():
            logger.warning("there is no file %s yet: this worker makes it", printable(path))
        return connect(url)
    except (LeaseqError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def _backend_options(backend: EventLoop) -> dict[str, Any]:
    """Return the options of an event loop that goes on when code in one of its tasks exits.

    asyncio's own raises the `SystemExit` of any task out of the loop, which ends it. The task has
    it as its error besides, so whatever awaits the task gets it.
    """
    if backend is not EventLoop.ASYNCIO:
        return {}
    import asyncio

    kind = "ProactorEventLoop" if sys.platform == "win32" else "SelectorEventLoop"
    base: Any = getattr(asyncio, kind)

    class Loop(base):  # type: ignore[misc]
        def run_forever(self) -> None:
            while True:
                try:
                    return super().run_forever()  # type: ignore[no-any-return]
                except SystemExit as error:
                    logger.warning("a task of the event loop has called sys.exit(%r)", error.code)

    return {"loop_factory": Loop}


async def _run(queue: TaskQueue, task_worker: TaskWorker, broker: Broker | None) -> None:
    if broker is not None:
        with queue.bind(broker):
            await _run_until_stopped(queue, task_worker)
    else:
        await _run_until_stopped(queue, task_worker)


async def _run_until_stopped(queue: TaskQueue, task_worker: TaskWorker) -> None:
    async with anyio.create_task_group() as tg, source_of(queue) as source:
        await tg.start(source.run)
        with anyio.CancelScope() as running:
            await tg.start(_obey_signals, task_worker, source, running)
            logger.info("%r runs the tasks of %d functions", task_worker, len(queue.functions))
            await task_worker.run()
        if running.cancelled_caught:
            raise KeyboardInterrupt
        logger.info("%r has ended", task_worker)
        tg.cancel_scope.cancel()


async def _obey_signals(
    task_worker: TaskWorker,
    source: Broker | LeasedQueue[str, Any],
    running: anyio.CancelScope,
    *,
    task_status: TaskStatus[None],
) -> None:
    """Stop the worker at the first signal, and end the process at the second."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        signals = aiter(received)
        logger.info("stopping, at %s", signal.Signals(await anext(signals)).name)
        task_worker.stop()
        if await anext(signals) == signal.SIGINT:
            async with anyio.create_task_group() as tg:
                tg.start_soon(_end, task_worker, source, running)
                await anext(signals)  # one more: now
                tg.cancel_scope.cancel()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


async def _end(
    task_worker: TaskWorker, source: Broker | LeasedQueue[str, Any], running: anyio.CancelScope
) -> None:
    """Cancel the tasks that run, and end the process when only what cannot be is left."""
    running.cancel()
    loop = current_token().native_token
    with anyio.move_on_after(_GRACE) as grace:
        while task_worker.health().tasks > threads_at_work(loop):  # noqa: ASYNC110 - the last moment
            await anyio.sleep(_POLL)
    if grace.cancelled_caught:  # their leases are left to their time
        logger.warning("%r ends, and with it tasks that have not ended when cancelled", task_worker)
    elif threads_at_work(loop):
        with anyio.move_on_after(_GRACE):
            await source.close()  # what the others had goes back
        logger.warning("%r ends, and functions in threads with it", task_worker)
    else:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(130)
