"""Plain values: equal by what they have, and only to their like."""

from leaseq._core.values import plain_value


@plain_value
class Point:
    x: int
    y: int = 0


@plain_value
class Size:
    x: int
    y: int = 0


@plain_value
class Nothing:
    pass


def test_values_are_equal_by_what_they_have() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 1)
    assert {Point(1), Point(1, 0)} == {Point(1)}
    assert Nothing() == Nothing()
    assert repr(Point(1)) == "Point(x=1, y=0)"


def test_values_of_other_types_are_others() -> None:
    assert Point(1) != Size(1)
    assert Point(1) != (1, 0)
    assert Nothing() != Size(1)
