"""The contract suite: what every leased queue has to do, as tests.

They are written against `leaseq.abc.LeasedQueue` alone, so that each engine, and any of your own,
is held to the same. They are for pytest, with anyio's plugin. A test module gives the engine and
takes the tests::

    import pytest

    from leaseq import LeasedKeyQueue
    from leaseq.testing import advance, contract, virtual_backend


    class Memory:
        async def queue(self, **options):
            return LeasedKeyQueue(**options)

        async def advance(self, seconds):
            await advance(seconds)


    @pytest.fixture
    def engine():
        return Memory()


    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return virtual_backend(request.param)


    class TestMemory(contract.Contract):
        pass

An engine whose time cannot be made to pass takes `contract.Timeless`, the tests that need no
`advance`. The suite uses strings as keys and what JSON knows as values, and leaves every queue as
it is at the end of a test: the ``engine`` fixture cleans up. Name the suite to pytest to see the
values in a failed assertion, in ``conftest.py``, before it is imported::

    pytest.register_assert_rewrite("leaseq.testing.contract")
"""

from __future__ import annotations

from .base import Engine, QueueOptions
from .bodies import Bodies, LosingBodies
from .cancelling import Cancelling
from .consuming import Consuming
from .ending import Ending
from .expiring import Expiring
from .iterating import Iterating
from .looking import Looking, Misusing
from .putting import Putting
from .running import Running
from .settling import Settling

__all__ = ["Contract", "Engine", "QueueOptions", "Timed", "Timeless"]


class Timeless(
    Putting,
    Consuming,
    Settling,
    Bodies,
    Cancelling,
    Iterating,
    Ending,
    Running,
    Looking,
    Misusing,
):
    """What holds without any time passing."""


class Timed(Expiring, LosingBodies):
    """What becomes of leases in the course of time."""


class Contract(Timeless, Timed):
    """All of it."""
