"""dramatiq on its Redis broker: one worker process with threads."""

import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from driver import ThreadedPeer, asked, handle_in_thread, value
from sizes import KEEP

OPTIONS = {"heartbeat_timeout": int(asked.lease * 1000)} if asked.lease else {}
broker = RedisBroker(url=asked.url, **OPTIONS)
if asked.results:
    backend = RedisBackend(url=asked.url)
    broker.add_middleware(Results(backend=backend, store_results=True, result_ttl=KEEP * 1000))
dramatiq.set_broker(broker)


@dramatiq.actor
def job(item: dict[str, object]) -> object:
    return handle_in_thread(item)


class Dramatiq(ThreadedPeer):
    def put(self, number: int) -> None:
        job.send(value(number))

    def work(self) -> None:
        dramatiq.Worker(broker, worker_threads=asked.concurrency).start()
        while True:
            time.sleep(1.0)


Dramatiq().run()
