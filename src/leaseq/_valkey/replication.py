"""Replication: a call counts as done once so many replicas have what it did.

A server passes on what it has done after it has answered. When it dies meanwhile, its successor
does not know of it. `WAIT` waits for the replicas, but for what *its own connection* has written
alone; on another one, or at another node of a cluster, it answers immediately that all is well. So
it goes with a script that shows that this very server has done the call, and writes something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from .._core.errors import LeaseqError
from .._remote.protocol import NotConfirmedError
from .client import Client, Reply, Script, run_script
from .connection import Arg
from .scripts import CONFIRM

_PROCESS, _NUMBER = 2, 3  # where a call says whose it is, and which one
_NOTHING = b"0"  # in place of the time: the server takes no writes, so that nothing was written
_SHARE: Final = 0.5  # of the time that an answer may take, for which replicas are waited for


class ReplicatedClient:
    """A `Client` whose scripts have an answer once replicas have what they did.

    Otherwise they are in doubt. Each is to have a number, by which the server knows it if it is
    sent again.

    Args:
        client: The client.
        replicas: The number of replicas that must have it.
        request_timeout: The longest time that an answer may take, in seconds.
    """

    def __init__(self, client: Client, replicas: int, request_timeout: float) -> None:
        self._client = client
        self._replicas = replicas
        self._milliseconds = max(1, round(request_timeout * _SHARE * 1000))  # 0 is for ever
        self.is_cluster = client.is_cluster
        self.functions = client.functions
        self.command = client.command
        self.pipeline = client.pipeline
        self.listen = client.listen
        self.close = client.close

    async def script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Reply:
        if not script.changes:
            return await self._client.script(script, keys, args)
        operands = (str(len(keys)), *keys, *args)
        proof = ("EVAL", CONFIRM, "0", keys[0], args[_PROCESS], args[_NUMBER])
        wait = ("WAIT", str(self._replicas), str(self._milliseconds))
        reply, shown, copies = await run_script(self._client, script, operands, proof, wait)
        if isinstance(reply, LeaseqError):
            raise reply
        if isinstance(reply, list) and reply[0] == _NOTHING:
            return cast("Reply", reply)
        if shown != 1:
            raise NotConfirmedError(
                "it may have been done, but not by the server whose replicas were asked for it"
            )
        if not isinstance(copies, int) or copies < self._replicas:
            raise NotConfirmedError(
                f"no more than {copies} of {self._replicas} replicas have a copy, after "
                f"{self._milliseconds / 1000:g} s"
            )
        return cast("Reply", reply)
