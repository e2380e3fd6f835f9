"""Hints between processes: datagrams that say that there may be something.

Each process has a socket, whose address is in the file. A hint is lost if its process does not read
for long, and any program on the machine may send one: so it is never believed, only followed by a
look.
Where there are no such sockets, processes look every second or two.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_ABSTRACT: Final = "@"
"""The beginning of an address that is no path: Linux has names that end with their process."""
_LARGEST: Final = 65_536


def _native(address: str) -> str:
    return "\0" + address[1:] if address.startswith(_ABSTRACT) else address


class Ear:
    """The socket on which a process hears hints.

    Attributes:
        address: Its address; "": there is none here.
        socket: The socket; None: there is none.
    """

    def __init__(self, process: str) -> None:
        self.address = ""
        self.socket: socket.socket | None = None
        if not hasattr(socket, "AF_UNIX") or sys.platform == "win32":
            return
        address = f"{_ABSTRACT}leaseq-{process}"
        if not sys.platform.startswith("linux"):
            address = str(Path(tempfile.gettempdir()) / f"leaseq-{process}.sock")
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.setblocking(False)
        try:
            ear.bind(_native(address))
        except OSError:  # it does without
            ear.close()
        else:
            self.address, self.socket = address, ear

    def read(self) -> list[bytes]:
        """Return the hints that have come, and do not wait."""
        hints: list[bytes] = []
        with suppress(OSError):
            while self.socket is not None:
                hints.append(self.socket.recv(_LARGEST))
        return hints

    def close(self) -> None:
        """Close the socket; idempotent."""
        ear, self.socket = self.socket, None
        if ear is not None:
            ear.close()
            if not self.address.startswith(_ABSTRACT):
                with suppress(OSError):
                    Path(self.address).unlink()


class Voice:
    """The socket from which a process sends hints."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._probe: socket.socket | None = None
        if hasattr(socket, "AF_UNIX") and sys.platform != "win32":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def is_heard(self, address: str) -> bool:
        """Return False if no process has this address any more."""
        if self._probe is None:
            return False
        try:
            self._probe.connect(_native(address))
        except OSError:
            return False
        return True

    def send(self, address: str, hint: bytes) -> None:
        """Send a hint, which may be lost."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto(hint, _native(address))

    def close(self) -> None:
        """Close the sockets; idempotent."""
        for each in (self._socket, self._probe):
            if each is not None:
                each.close()
        self._socket = self._probe = None
