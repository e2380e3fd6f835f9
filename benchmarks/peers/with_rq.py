"""RQ: a pool of workers, each of which does one job at a time.

For jobs as short as these its documentation has `SimpleWorker`; where workers are to die, `Worker`,
which forks for each job, as for all else.
"""

import logging
import os
import sys
from collections.abc import Sequence

from driver import ThreadedPeer, asked, count_by_pipe, handle_in_thread, value
from redis import Redis
from rq import Queue, Retry, SimpleWorker, Worker
from rq.worker_pool import WorkerPool
from sizes import KEEP

OPTIONS = {"result_ttl": KEEP if asked.results else 0, "retry": Retry(max=3)}
if asked.lease:
    OPTIONS["job_timeout"] = int(asked.lease)


def job(item: dict[str, object]) -> object:
    return handle_in_thread(item)


class Rq(ThreadedPeer):
    has_bulk = True

    def __init__(self) -> None:
        self.connection = Redis.from_url(asked.url)
        self.queue = Queue("jobs", connection=self.connection)

    def put(self, number: int) -> None:
        self.queue.enqueue("with_rq.job", value(number), **OPTIONS)

    def put_many(self, numbers: Sequence[int]) -> None:
        self.queue.enqueue_many(
            [Queue.prepare_data("with_rq.job", (value(number),), **OPTIONS) for number in numbers]
        )

    def work(self) -> None:
        quick = asked.mode == "speed"
        if quick:
            count_by_pipe()
        count = os.cpu_count() if quick else asked.concurrency
        pool = WorkerPool(
            [self.queue],
            connection=self.connection,
            num_workers=count or 1,
            worker_class=SimpleWorker if quick else Worker,
        )
        pool.start(logging_level="WARNING")


if __name__ == "__main__":
    logging.disable(logging.INFO)
    sys.modules["with_rq"] = sys.modules["__main__"]
    Rq().run()
