"""The servers that the tests start."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.servers import Cluster, Server, find_redis, find_valkey


@pytest.fixture(params=[find_valkey, find_redis], ids=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    binary = request.param()
    if binary is None:
        pytest.skip("there is no such server on this machine")
    return Server(binary, tmp_path)


def is_there(pid: int) -> bool:
    """Whether a process runs, or waits for its parent to notice that it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_answers_as_long_as_it_is_wanted(server: Server) -> None:
    with server:
        assert server.command("PING") == b"+PONG"
    with pytest.raises(OSError, match="refused"):
        server.command("PING")


def test_it_comes_back_on_its_port_with_nothing_in_it(server: Server) -> None:
    with server:
        server.command("SET", "kéy", "välue")
        assert server.command("EXISTS", "kéy") == b":1"
        port = server.port
        server.restart()
        assert server.port == port
        assert server.command("EXISTS", "kéy") == b":0"


def test_a_durable_one_has_all_that_it_confirmed(server: Server, tmp_path: Path) -> None:
    with Server(server._binary, tmp_path, durable=True) as durable:
        durable.command("SET", "key", "value")
        durable.restart()
        assert durable.command("EXISTS", "key") == b":1"
        durable.stop()
        durable.start()
        assert durable.command("EXISTS", "key") == b":1"


def test_a_frozen_one_answers_when_it_thaws(server: Server) -> None:
    with server:
        with server.frozen():
            assert Path(f"/proc/{server.pid}/stat").read_text().split(") ")[1][0] == "T"
        assert server.command("PING") == b"+PONG"


def test_one_that_cannot_start_says_why(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        Server(server._binary, tmp_path, "--no-such-option", "1").start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties one process to another")
def test_it_ends_with_the_process_that_started_it(server: Server, tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from tests.servers import Server
server = Server(sys.argv[1], Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, server._binary, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    pid = int(run.stdout)
    deadline = time.monotonic() + 10
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not is_there(pid)


def test_a_cluster_fails_over_and_becomes_whole_again(tmp_path: Path) -> None:
    binary = find_valkey()
    if binary is None:
        pytest.skip("there is no such server on this machine")
    with Cluster(binary, tmp_path) as cluster:
        first = cluster.primary_of()
        successor = cluster.replica_of(first)
        first.kill()
        cluster.wait_until(lambda: successor.says("ROLE", word=b"master"))
        assert cluster.primary_of() is successor
        assert not cluster.is_whole()
        first.start()
        cluster.wait_until(cluster.is_whole)
        assert cluster.replica_of(successor) is first
