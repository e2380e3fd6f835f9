"""Values as JSON has them, and back by the annotations of a function.

What a task carries leaves the process on some engines. So it has one form on all of them: what is
left of a value after it was written as JSON and read again. A dataclass is a dict then, a set a
list, a date a string. The annotations of the function say what to make of it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from inspect import BoundArguments, Parameter
from typing import Any, Required, TypedDict, get_type_hints

import msgspec

from ._errors import TaskDataError

__all__ = ["Signature", "as_plain"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)


def as_plain(value: object, what: str) -> tuple[Any, int]:
    """What JSON makes of a value, and how many bytes it takes.

    Args:
        value: What msgspec can write: plain values, dataclasses, Structs, dates, enums and so on.
        what: What the value is, for the error.

    Raises:
        TaskDataError: it cannot be written as JSON.
    """
    try:
        data = _encode(value)
    except _UNWRITABLE as error:
        raise TaskDataError(
            f"{what} cannot be written as JSON: {error}; use plain values, dataclasses or "
            "msgspec Structs"
        ) from None
    return _decode(data), len(data)


class Typed:
    """What an annotation makes of plain values: new ones, which nobody shares.

    It goes by JSON: for that, msgspec compiles an annotation once; to convert a value, each time.

    Args:
        annotation: The annotation.
        what: What the values are, for errors.

    Raises:
        TaskDataError: nothing plain can be made into it.
    """

    def __init__(self, annotation: Any, what: str) -> None:
        self._what = what
        try:
            self._read = msgspec.json.Decoder(annotation).decode
        except TypeError as error:
            raise TaskDataError(
                f"{what}: its annotation cannot be read from JSON: {error}"
            ) from None

    def read(self, data: bytes) -> Any:
        """What it makes of JSON.

        Raises:
            TaskDataError: it does not fit, with the path of the field.
        """
        try:
            return self._read(data)
        except msgspec.ValidationError as error:
            raise TaskDataError(f"{self._what}: {error}") from None

    def of(self, plain: object) -> Any:
        """What it makes of a plain value. Raises as `read`."""
        try:
            data = _encode(plain)
        except _UNWRITABLE as error:
            raise TaskDataError(f"{self._what}: {error}") from None
        return self.read(data)


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """What has the annotations of a function, a partial one, or an object that can be called."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


class Signature:
    """The parameters of a function, and what it returns, as its annotations have them.

    Args:
        function: The function.
        name: What the task is called, for errors.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._what = f"task {name!r}"
        self._signature = inspect.signature(function)
        self._parameters = self._signature.parameters
        self._all_by_name = all(
            each.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
            for each in self._parameters.values()
        )

    @cached_property
    def _hints(self) -> dict[str, Any]:
        """The annotations, resolved at first use: names may be defined below the function."""
        try:
            return get_type_hints(_annotated(self._function), include_extras=True)
        except NameError as error:
            raise TaskDataError(
                f"{self._what}: an annotation cannot be resolved: {error}; it has to be a name of "
                "the function's module when the program runs"
            ) from None

    @cached_property
    def _arguments(self) -> Typed:
        """What makes arguments of plain values, by the names of their parameters."""
        fields: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            annotation = self._hints.get(name, Any)
            if parameter.kind is Parameter.VAR_POSITIONAL:
                fields[name] = list[annotation]  # type: ignore[valid-type]
            elif parameter.kind is Parameter.VAR_KEYWORD:
                fields[name] = dict[str, annotation]  # type: ignore[valid-type]
            else:
                required = parameter.default is Parameter.empty
                fields[name] = Required[annotation] if required else annotation
        arguments = TypedDict("Arguments", fields, total=False)  # type: ignore[misc]
        return Typed(arguments, self._what)

    @cached_property
    def _result(self) -> Typed:
        """What makes a result of a plain value."""
        return Typed(self._hints.get("return", Any), f"{self._what}: its result")

    def resolve(self) -> None:
        """See that the annotations can be used.

        Raises:
            TaskDataError: one cannot be resolved.
        """
        _ = self._arguments

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by the names of their parameters, in their plain form.

        Raises:
            TypeError: the function does not take these.
            TaskDataError: one is not what its annotation says, or cannot be written as JSON.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._what}: {error}") from None
        if not bound.arguments:
            return {}
        try:
            data = _encode(bound.arguments)
        except _UNWRITABLE:
            for name, value in bound.arguments.items():
                as_plain(value, f"{self._what}: argument {name!r}")
            raise
        self._arguments.read(data)
        plain: dict[str, Any] = _decode(data)
        return plain

    def unbind(self, plain: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for the function, of values that are not shared.

        Raises:
            TaskDataError: one is missing, unknown, or not what its annotation says.
        """
        if plain or self._parameters:
            unknown = plain.keys() - self._parameters.keys()
            if unknown:
                names = ", ".join(map(repr, sorted(unknown)))
                raise TaskDataError(f"{self._what} has no parameter {names}")
            values: dict[str, Any] = self._arguments.of(plain)
            if self._all_by_name:
                return (), values
            bound = BoundArguments(self._signature, values)
            return bound.args, bound.kwargs
        return (), {}

    def plain_result(self, result: object) -> tuple[Any, int]:
        """What the function returned in its plain form, and its size in bytes.

        Raises:
            TaskDataError: it is not what its annotation says, or cannot be written as JSON.
        """
        plain, size = as_plain(result, f"{self._what}: its result")
        self.typed_result(plain)
        return plain, size

    def typed_result(self, plain: object) -> Any:
        """What the function returned, from its plain form.

        Raises:
            TaskDataError: it is not what its annotation says.
        """
        return self._result.of(plain)
