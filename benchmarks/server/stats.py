"""What a server says of itself."""

import re

from tests.servers import Server


def number(server: Server, *words: str) -> int:
    """A command's answer, which is a number."""
    return int(server.command(*words).lstrip(b":"))


SCRIPTS = ("evalsha", "fcall")
"""The commands by which scripts are run."""


def calls_of(server: Server, *commands: str) -> tuple[int, int]:
    """How often commands were called since the last reset, and the microseconds that it took."""
    info = server.command("INFO", "commandstats").decode()
    found = re.findall(rf"cmdstat_(?:{'|'.join(commands)}):calls=(\d+),usec=(\d+)", info)
    return sum(int(calls) for calls, _ in found), sum(int(spent) for _, spent in found)


def memory_of(server: Server) -> int:
    """The bytes that it uses."""
    found = re.search(r"used_memory:(\d+)", server.command("INFO", "memory").decode())
    assert found is not None
    return int(found[1])


def reset(server: Server) -> None:
    """Count from here."""
    server.command("CONFIG", "RESETSTAT")


def processor_time_of(server: Server) -> float:
    """The seconds of a processor that it has had."""
    info = server.command("INFO", "cpu").decode()
    return sum(float(each) for each in re.findall(r"used_cpu_(?:sys|user):([\d.]+)", info))
