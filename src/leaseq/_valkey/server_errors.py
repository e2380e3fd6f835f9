"""Errors of the server, as its users are told them."""

from __future__ import annotations

import re
from typing import Final

from .._core.errors import ServerError, ServerUnavailableError

_NOT_ALLOWED: Final = re.compile(r"no permissions to run the '([^']+)' command", re.IGNORECASE)
_NO_PERMISSION: Final = re.compile(
    r"^NOPERM |ACL failure in script|no permissions to |user executing the script can't",
    re.IGNORECASE,
)
_LACKING: Final = {
    "access a key": "keys of the queue, or of the queue of its dead letters, or of the prefix",
    "of the keys": "keys of the queue, or of the queue of its dead letters",
    "access a channel": "the channels of the prefix",
    "of the channels": "the channels of the prefix",
    "can't run this command": "a command that scripts need",
}
_NOT_READY: Final = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "TRYAGAIN"}
)
"""Codes of a server that will do the request later, or whose request another one does."""
_ECHO: Final = ", with args beginning with"
"""The words before a server's echo of an unknown command, which may have a password in it."""
_NO_WRITES: Final = {
    "OOM": "the server is full",
    "MISCONF": "the server cannot keep what is written",
    "NOREPLICAS": "the server has too few replicas",
}


class ServerNotReadyError(ServerUnavailableError):
    """The server answers, but is not ready: it or another server will do the request later.

    Attributes:
        code: The first word of its answer.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, in_doubt=False)
        self.code = code


def error_of(said: str, where: str) -> ServerError | ServerNotReadyError:
    """Return the error for what a server has answered.

    Args:
        said: Its words, of which the first is the code.
        where: Its address.
    """
    said = said.strip().partition(_ECHO)[0] or "ERR the server has refused, and not said why"
    code = said.partition(" ")[0]
    if code in _NOT_READY:
        return ServerNotReadyError(f"{where} is not ready: {said}", code=code)
    return server_error(said)


def server_error(said: str) -> ServerError:
    """Return the error for a server's words, of which the first is the code.

    What a user may not do within a script the server says in words alone: there is no code for it.
    """
    code = said.partition(" ")[0]
    if _NO_PERMISSION.search(said):
        code, said = "NOPERM", f"NOPERM this user may not do that: its ACL lacks {_lacking(said)}"
    elif code == "NEWER":
        said = f"{said}: a newer leaseq has written there, so upgrade leaseq in this process"
    elif code in _NO_WRITES:
        said = f"{said.rstrip('.')} ({_NO_WRITES[code]}: nothing was done)"
    return ServerError(said, code=code)


def _lacking(said: str) -> str:
    """Return what the ACL lacks, by the server's words."""
    command = _NOT_ALLOWED.search(said)
    if command is not None:
        return f"+{command[1]}"
    lacking = (what for words, what in _LACKING.items() if words in said)
    return next(lacking, f"something ({said})")
