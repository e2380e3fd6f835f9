"""leaseq's tasks: `push_many`, and a `TaskWorker`, with a function that does nothing."""

import anyio
from driver import CONCURRENCY, Clock, arguments, batches, value

import leaseq
from leaseq.tasks import TaskQueue, TaskWorker

asked = arguments()
clock = Clock(asked.items)
tasks = TaskQueue()


@tasks.task
async def handle(item: dict[str, object]) -> None:
    if clock.handled():
        clock.report()


async def main() -> None:
    async with leaseq.connect(asked.url) as broker, anyio.create_task_group() as tg:
        with tasks.bind(broker):
            await tg.start(broker.run)
            with clock:
                for numbers in batches(asked.items):
                    await tasks.push_many([handle.task(value(number)) for number in numbers])
            await tg.start(TaskWorker(tasks, concurrency=CONCURRENCY).run)


anyio.run(main, backend=asked.backend)
