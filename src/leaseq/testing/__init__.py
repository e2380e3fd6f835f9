"""Virtual time, and a sweep of cancellations, for tests of code that uses a queue."""

from leaseq.testing.clocks import VirtualEventLoop, advance, virtual_backend
from leaseq.testing.sweep import Operation, Scenario, cancel_sweep

__all__ = [
    "Operation",
    "Scenario",
    "VirtualEventLoop",
    "advance",
    "cancel_sweep",
    "virtual_backend",
]
