"""Virtual time, and a sweep of cancellations, for tests of code that uses a queue."""

from leaseq.testing._clocks import VirtualEventLoop, advance, virtual_backend
from leaseq.testing._sweep import Operation, Scenario, cancel_sweep

from .._core.exports import adopt as _adopt

__all__ = [
    "Operation",
    "Scenario",
    "VirtualEventLoop",
    "advance",
    "cancel_sweep",
    "virtual_backend",
]

_adopt(__name__, globals())
