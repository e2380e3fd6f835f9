"""huey: a consumer with threads, as its documentation has it for work that waits."""

from driver import ThreadedPeer, asked, handle_in_thread, value
from huey import RedisHuey

huey = RedisHuey("jobs", url=asked.url, results=asked.results)


@huey.task()
def job(item: dict[str, object]) -> object:
    return handle_in_thread(item)


class OfHuey(ThreadedPeer):
    def put(self, number: int) -> None:
        job(value(number))

    def work(self) -> None:
        huey.create_consumer(workers=asked.concurrency, worker_type="thread").run()


OfHuey().run()
