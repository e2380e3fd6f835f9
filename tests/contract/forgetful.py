"""A plugin for pytest: the suite on an engine that loses items, to see that the suite notices.

A consumer that is cancelled between its item and its return does not give the item back.
"""

from __future__ import annotations

from typing import Any, Unpack

from anyio.lowlevel import checkpoint

from leaseq import LeasedKeyQueue


class ForgetfulQueue(LeasedKeyQueue[str, object]):
    async def take(self, *args: Any, **options: Any) -> Any:
        taken = await super().take(*args, **options)
        await checkpoint()
        return taken


def pytest_sessionstart() -> None:
    # Not before: what is imported when pytest loads its plugins shows no values when it fails.
    from tests.backends import VIRTUAL_TIME
    from tests.contract import engines
    from tests.contract.helpers import QueueOptions

    class Forgetful(engines.Memory):
        async def queue(self, **options: Unpack[QueueOptions]) -> ForgetfulQueue:
            return ForgetfulQueue(**options)

    features = engines.IN_PROCESS | {"advance"}
    forgetful = engines.Entry("forgetful", engines.here(Forgetful), features, VIRTUAL_TIME)
    engines.ENGINES = (forgetful,)
