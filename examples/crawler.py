"""A polite crawler: a site that it starts itself, many hosts, and never two requests to one host.

The key of an item is a host, and its value the paths to fetch there. A key is in one pair of hands
at a time, so one lease for each host is all the politeness that there is to write. What is found
while a host is leased is put with ``if_in_flight="buffer"``: it waits for the end of that lease.
"""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.request import ProxyHandler, Request, build_opener

import anyio
from anyio import to_thread

from leaseq import Lease, LeasedKeyQueue, serve

HOSTS = [f"{name}.example" for name in ("red", "green", "blue", "black", "white")]
PAGES = 6
WORKERS = 4

open_url = build_opener(ProxyHandler({})).open


class Site(BaseHTTPRequestHandler):
    """All the hosts. A page links to the next one of its host, and to the same one of another."""

    crowds: ClassVar[Counter[str]] = Counter()
    lock: ClassVar = threading.Lock()

    def do_GET(self) -> None:
        host = self.headers["Host"]
        with self.lock:
            self.crowds[host] += 1
            crowd = self.crowds[host]
        threading.Event().wait(0.01)  # a server takes its time
        number = int(self.path.removeprefix("/"))
        neighbour = HOSTS[(HOSTS.index(host) + 1) % len(HOSTS)]
        links = [(host, number + 1), (neighbour, number)] if number + 1 < PAGES else []
        body = "".join(f'<a href="http://{where}/{page}">' for where, page in links).encode()
        with self.lock:
            self.crowds[host] -= 1
        self.send_response(200 if crowd == 1 else 429)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def site() -> Iterator[int]:
    """The hosts' server, on a free port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class Crawler:
    """Who knows which pages were seen, and which of them are still to be fetched."""

    def __init__(self, queue: LeasedKeyQueue[str, frozenset[str]], port: int) -> None:
        self.queue = queue
        self.port = port
        self.seen: set[tuple[str, str]] = set()
        self.to_fetch: dict[str, set[str]] = {host: set() for host in HOSTS}
        self.fetched: list[tuple[str, str]] = []

    async def find(self, host: str, path: str) -> None:
        """Put a page in line, unless it was there before."""
        if (host, path) in self.seen:
            return
        self.seen.add((host, path))
        self.to_fetch[host].add(path)
        await self.queue.put(host, frozenset(self.to_fetch[host]), if_in_flight="buffer")

    async def crawl(self, lease: Lease[str, frozenset[str]]) -> None:
        """Fetch what there is to fetch at a host, one page after the other."""
        for path in sorted(lease.value & self.to_fetch[lease.key]):
            page = await to_thread.run_sync(self.fetch, lease.key, path)
            self.to_fetch[lease.key].remove(path)
            self.fetched.append((lease.key, path))
            for host, found in re.findall(r'href="http://([^/"]+)(/[^"]*)"', page):
                await self.find(host, found)

    def fetch(self, host: str, path: str) -> str:
        """Get a page. It blocks, so it is for a worker thread."""
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers={"Host": host})
        with open_url(request, timeout=10) as response:
            return str(response.read().decode())


async def main() -> None:
    with site() as port:
        async with (
            anyio.create_task_group() as tg,
            LeasedKeyQueue[str, frozenset[str]](name="hosts") as queue,
        ):
            crawler = Crawler(queue, port)
            await tg.start(serve, queue, crawler.crawl, WORKERS)
            await crawler.find(HOSTS[0], "/0")
            await queue.join()
            await queue.shutdown()
    for host, pages in sorted(Counter(host for host, _ in crawler.fetched).items()):
        print(f"{host}: {pages} pages")
    assert len(crawler.fetched) == len(set(crawler.fetched)) == PAGES * len(HOSTS)


if __name__ == "__main__":
    anyio.run(main)
