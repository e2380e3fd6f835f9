"""What the tests of a leased queue, and of the code that uses one, are made of.

The contract suite is in `leaseq.testing.contract`, which needs pytest.
"""

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

_adopt(__name__, __all__, globals())
