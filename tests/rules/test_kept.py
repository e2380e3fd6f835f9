"""Values that are kept for a time, beside a dict of what should be there."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from leaseq._core.kept import Kept
from leaseq._rules.kept import KeptValues

NAMES = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), NAMES, st.sampled_from([0.001, 0.5, 1.0, 2.5, 60.0, inf])),
        st.tuples(st.just("wait"), st.floats(0.0, 3.0), st.none()),
        st.tuples(st.just("sweep"), st.integers(1, 4), st.none()),
    ),
    max_size=60,
)


def kept(name: str, body: bytes, ttl: float) -> Kept:
    return Kept(name, body, ttl, b"")


@given(STEPS)
def test_a_value_is_there_until_its_time_is_over(steps: list[tuple[str, object, object]]) -> None:
    values, now = KeptValues(), 1000.3
    model: dict[str, tuple[float, bytes]] = {}
    for number, (step, what, ttl) in enumerate(steps):
        if step == "keep":
            assert isinstance(what, str)
            assert isinstance(ttl, float)
            body = b"%d" % number
            model[what] = now + ttl, body
            assert values.keep([kept(what, body, ttl)], now) == values.next_sweep()
        elif step == "wait":
            assert isinstance(what, float)
            now += what
        else:
            assert isinstance(what, int)
            values.sweep(now, what)
        for name in "abcdef":
            end, expected = model.get(name, (-inf, None))
            assert values.read(name, now) == (expected if end > now else None)
        assert (
            values.next_sweep()
            <= min([end for end, _ in model.values() if end > now], default=inf) + 1
        )
    values.sweep(now + 61.0, 1000)
    assert len(values) == sum(end == inf for end, _ in model.values())
    assert values.next_sweep() == inf


def test_names_of_values_that_were_replaced_do_not_pile_up() -> None:
    values = KeptValues()
    for number in range(10_000):
        values.keep([kept("a", b"1", 3600.0), kept(f"b{number % 50}", b"1", 10.0)], number / 100)
    assert len(values) == 51
    assert values._listed <= 2 * 51 + 64
    assert sum(map(len, values._names.values())) == values._listed


def test_without_a_timekeeper_new_values_take_old_ones_along() -> None:
    values = KeptValues()
    for number in range(10_000):
        values.keep([kept(str(number), b"1", 5.0)], number / 10)
    assert len(values) < 100


def test_a_sweep_ends_where_it_is_told_to() -> None:
    values = KeptValues()
    values.keep([kept(str(number), b"1", 5.0) for number in range(100)], 0.0)
    values.sweep(10.0, 30)
    assert len(values) == 70
    assert values.next_sweep() <= 10.0
    values.sweep(10.0, 100)
    assert (len(values), values.next_sweep()) == (0, inf)
