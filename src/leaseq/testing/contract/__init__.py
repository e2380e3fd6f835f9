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
`advance`. What every broker has to do is in `contract.BrokerContract`, for an engine with
``async def broker(self)`` in place of ``queue``.

Where queues outlive their handles, because others may have them too, in other processes, shutdown
and close concern a handle alone: the queue lives on, the leases held through the handle go back,
and `join` asks for the whole queue. Such an engine takes `contract.SharedContract`, and
`contract.SharedBrokerContract`. These leave out `contract.Owned` and its kin, which hold only where
nobody else can put or look; and they add what holds of two handles on one queue, for an engine with
``async def handles(self, **options)`` beside ``queue``. That a put which was cancelled did not
happen is one of the things left out, since a request that was sent cannot be called back: an
engine that knows nevertheless adds `contract.CancelledPuts`.

The suite uses strings as keys and what JSON knows as values, and leaves every queue as
it is at the end of a test: the ``engine`` fixture cleans up. Name the suite to pytest to see the
values in a failed assertion, in ``conftest.py``, before it is imported::

    pytest.register_assert_rewrite("leaseq.testing.contract")
"""

from __future__ import annotations

from .base import Engine, QueueOptions
from .bodies import Bodies, LosingBodies
from .broker_base import BrokerEngine
from .burying import Burying, BuryingInTime
from .cancelling import CancelledPuts, Cancelling
from .carrying import Carrying
from .closing import Closing
from .consuming import Consuming
from .delaying import Delaying
from .ending import Ending
from .expiring import Expiring
from .failing import FailingTransactions, LateTransactions
from .handing_over import HandingOver
from .handles import SharedEngine, SharingHandles
from .holding import Holding, HoldingOn
from .iterating import Iterating
from .keeping import ClosingBrokers, Keeping, KeepingTime
from .limiting import Limiting, LimitingInTime
from .looking import Ageing, Looking
from .managing import Deleting, Outliving, Purging, Telling
from .messaging import Forgetting, Messaging
from .misusing import Misusing
from .naming import Naming, Pairing
from .owning import Owned, OwnedBroker, OwnedTimed, OwnedTimedBroker
from .parting import PartingHandles, SharingHandlesInTime
from .perishing import Perishing
from .prioritising import Prioritising
from .putting import Putting
from .redriving import Redriving
from .retrying import Resting, Retrying
from .running import Running
from .serving import Serving
from .settling import Settling
from .sharing import Sharing
from .transacting import Transacting, TransactingUnderLeases

__all__ = [
    "BrokerContract",
    "BrokerEngine",
    "CancelledPuts",
    "Contract",
    "Engine",
    "Owned",
    "OwnedBroker",
    "OwnedTimed",
    "OwnedTimedBroker",
    "PartingHandles",
    "QueueOptions",
    "SharedBrokerContract",
    "SharedContract",
    "SharedEngine",
    "SharedTimed",
    "SharedTimedBroker",
    "SharedTimeless",
    "SharedTimelessBroker",
    "SharingHandles",
    "SharingHandlesInTime",
    "Timed",
    "TimedBroker",
    "Timeless",
    "TimelessBroker",
]


class _Timeless(
    Putting,
    Consuming,
    Settling,
    Bodies,
    Cancelling,
    Iterating,
    Ending,
    Closing,
    Running,
    Looking,
    Prioritising,
    Sharing,
    Serving,
    Retrying,
    Burying,
    Redriving,
    Limiting,
    Misusing,
):
    """What holds without any time passing, whoever else has the queue."""


class _Timed(
    Expiring,
    LosingBodies,
    Delaying,
    Perishing,
    Resting,
    BuryingInTime,
    LimitingInTime,
    Ageing,
):
    """What becomes of items and leases in the course of time, whoever else has the queue."""


class Timeless(_Timeless, Owned):
    """What holds without any time passing."""


class Timed(_Timed, OwnedTimed):
    """What becomes of items and leases in the course of time."""


class Contract(Timeless, Timed):
    """All of it, for an engine whose queues end with their handle."""


class SharedTimeless(_Timeless, SharingHandles, PartingHandles):
    """What holds without any time passing of a queue that others may have too."""


class SharedTimed(_Timed, SharingHandlesInTime):
    """What becomes of items and leases in the course of time where others have the queue too."""


class SharedContract(SharedTimeless, SharedTimed):
    """All of it, for an engine whose queues outlive their handles: give it a `SharedEngine`."""


class SharedTimelessBroker(
    Naming,
    Pairing,
    Carrying,
    Telling,
    Deleting,
    Purging,
    Messaging,
    Holding,
    Transacting,
    FailingTransactions,
    TransactingUnderLeases,
    HandingOver,
    Keeping,
    ClosingBrokers,
):
    """What holds without any time passing of brokers whose queues others may have too."""


class SharedTimedBroker(Outliving, Forgetting, HoldingOn, LateTransactions, KeepingTime):
    """What becomes of their queues in the course of time."""


class SharedBrokerContract(SharedTimelessBroker, SharedTimedBroker):
    """All that a broker has to do whose queues outlive it."""


class TimelessBroker(SharedTimelessBroker, OwnedBroker):
    """What holds of brokers without any time passing."""


class TimedBroker(SharedTimedBroker, OwnedTimedBroker):
    """What becomes of a broker's queues in the course of time."""


class BrokerContract(TimelessBroker, TimedBroker):
    """All that a broker has to do whose queues end with it."""
