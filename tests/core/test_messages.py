import math

import pytest

from leaseq import TimekeeperNotRunningError
from leaseq._core.messages import check_release, no_timekeeper


def test_the_error_says_what_needs_time_and_how_to_let_it_pass() -> None:
    text = str(no_timekeeper("this queue", "a lease of 3 s", "expire"))
    assert text.startswith("a lease of 3 s needs a timekeeper, or it would never expire")
    assert "'this queue'" in text
    assert "await tg.start(queue.run)" in text


def test_a_queue_of_a_broker_is_kept_by_its_broker() -> None:
    class Queue:
        _kept_by = "broker"

    text = str(no_timekeeper(Queue(), "a lease of 3 s", "expire"))
    assert "as tg, broker:\n        await tg.start(broker.run)" in text
    assert "tg.create_task(broker.run())" in text
    assert "queue.run" not in text


def test_a_release_without_a_delay_needs_no_timekeeper() -> None:
    check_release("queue", True, 0.0, True, timed=False)


def test_a_release_with_a_delay_needs_one() -> None:
    check_release("queue", False, 1.0, True, timed=True)
    with pytest.raises(TimekeeperNotRunningError, match=r"a delay of 1 s needs a timekeeper"):
        check_release("queue", False, 1.0, True, timed=False)


@pytest.mark.parametrize("delay", [-1.0, math.nan, math.inf])
def test_a_release_has_no_delay_that_cannot_be_waited_for(delay: float) -> None:
    with pytest.raises(ValueError, match="delay must be 0 seconds or more"):
        check_release("queue", False, delay, True, timed=False)


def test_a_release_is_not_both_at_once_and_later() -> None:
    with pytest.raises(ValueError, match=r"requeue_front=True excludes a delay, and delay=1.0:"):
        check_release("queue", True, 1.0, True, timed=True)
