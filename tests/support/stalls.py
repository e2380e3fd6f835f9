"""Stalls of the event loop, in virtual time."""

from anyio.lowlevel import current_token

from leaseq.testing import VirtualEventLoop


def block(seconds: float) -> None:
    """Let time pass as it does while something blocks the event loop."""
    loop = current_token().native_token
    if isinstance(loop, VirtualEventLoop):
        loop._selector_with_clock.now += seconds
    else:
        from trio.lowlevel import current_clock
        from trio.testing import MockClock

        clock = current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(seconds)
