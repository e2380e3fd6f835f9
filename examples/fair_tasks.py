"""Reports for users who take turns: functions as tasks, two workers, results, and XCom.

Ada orders forty reports, Bob four, and Cy a single one, after them. Each worker has users of its
own, and steals when those have nothing. Cy does not wait for Ada.
"""

from dataclasses import dataclass

import anyio

from leaseq import connect
from leaseq.tasks import TaskQueue, TaskWorker, current_task, xcom_pull, xcom_push

ORDERS = {"ada": 40, "bob": 4, "cy": 1}


@dataclass(frozen=True)
class Report:
    user: str
    pages: int


tasks = TaskQueue(name="reports")
done: list[str] = []


@tasks.task(result_ttl=3600)
async def report(user: str, pages: int) -> Report:
    await anyio.sleep(0.01)
    done.append(user)
    xcom_push("report", Report(user, pages))
    await tasks.push(mail.task(), delay=0.01)  # the same workflow, and the same tenant
    return Report(user, pages)


@tasks.task(max_retries=5)
async def mail() -> None:
    found = await xcom_pull("report", timeout=10)
    print(f"mail to {current_task().tenant}: {found['pages']} pages")


async def main() -> None:
    async with anyio.create_task_group() as tg, connect("memory://") as broker:
        with tasks.bind(broker):
            await tg.start(broker.run)
            ordered = [
                await tasks.push(report.task(user, pages=number + 1), tenant=user)
                for user, count in ORDERS.items()
                for number in range(count)
            ]
            workers = [
                TaskWorker(tasks, id="1", tenants=["ada", "cy"], steal_from=["bob"], concurrency=1),
                TaskWorker(tasks, id="2", tenants=["bob"], steal_from=["ada", "cy"], concurrency=1),
            ]
            for worker in workers:
                await tg.start(worker.run)
            print(await tasks.result(ordered[-1]))
            await tasks.join()
            for worker in workers:
                worker.stop()
        tg.cancel_scope.cancel()
    assert "cy" in done[:5], "the last one to order was served among the first"
    assert len(done) == sum(ORDERS.values())


if __name__ == "__main__":
    anyio.run(main)
