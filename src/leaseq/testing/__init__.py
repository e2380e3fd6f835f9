"""What the tests of a leased queue, and of the code that uses one, are made of."""

from leaseq.testing.clocks import VirtualEventLoop, advance, virtual_backend

__all__ = ["VirtualEventLoop", "advance", "virtual_backend"]
