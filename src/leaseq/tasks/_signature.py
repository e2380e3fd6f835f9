"""Arguments and results of a function: to plain values and back, by its annotations.

The values of a task leave the process on some engines. So they have one form on all of them, the
*plain* one: the value after it was written as JSON and read again. A dataclass becomes a dict, a
set a list, a date a string. The annotations of the function turn it back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from inspect import BoundArguments, Parameter
from typing import Any, Required, TypedDict, get_type_hints

import msgspec

from .._core.texts import shown
from ._errors import TaskDataError

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)


def as_plain(value: object, what: str) -> tuple[Any, int]:
    """Return the plain form of a value, and its size as JSON in bytes.

    Args:
        value: Any value that msgspec can write: plain values, dataclasses, Structs, dates, enums
            and so on.
        what: Subject of the error.

    Raises:
        TaskDataError: It cannot be written as JSON.
    """
    data = as_json(value, what)
    return _decode(data), len(data)


def as_json(value: object, what: str) -> bytes:
    """Return a value as JSON. Arguments and errors are those of `as_plain`."""
    try:
        return _encode(value)
    except _UNWRITABLE as error:
        raise TaskDataError(
            f"{what} cannot be written as JSON: {error}; use plain values, dataclasses or "
            "msgspec Structs"
        ) from None


class _Converter:
    """Conversion of plain values to the type of an annotation: always to new values.

    It goes through JSON: msgspec compiles an annotation for that once, and for the conversion of
    a value each time.

    Args:
        annotation: The annotation.
        what: Subject of errors.

    Raises:
        TaskDataError: Values of this type cannot be read from JSON.
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
        """Convert a value in JSON.

        Raises:
            TaskDataError: It does not match the annotation; the message has the path of the field.
        """
        try:
            return self._read(data)
        except msgspec.ValidationError as error:
            raise TaskDataError(f"{self._what}: {error}") from None

    def convert(self, plain: object) -> Any:
        """Convert a plain value. Raises as `read` does."""
        try:
            data = _encode(plain)
        except _UNWRITABLE as error:
            raise TaskDataError(f"{self._what}: {error}") from None
        return self.read(data)


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the object with the annotations of a function, a partial or a callable object."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


class Signature:
    """The parameters and the return type of a function.

    Args:
        function: The function.
        name: Name of the task, for errors.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._what = f"task {shown(name)}"
        self._signature = inspect.signature(function)
        self._parameters = self._signature.parameters
        self._required = {
            name
            for name, each in self._parameters.items()
            if each.default is Parameter.empty
            and each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        }
        self._all_by_name = all(
            each.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
            for each in self._parameters.values()
        )

    @cached_property
    def _hints(self) -> dict[str, Any]:
        """The annotations, resolved on first use: names may be defined below the function."""
        try:
            return get_type_hints(_annotated(self._function), include_extras=True)
        except NameError as error:
            raise TaskDataError(
                f"{self._what}: an annotation cannot be resolved: {error}; it has to be a name of "
                "the function's module when the program runs"
            ) from None

    @cached_property
    def _arguments(self) -> _Converter:
        """Converter of the arguments, which are a dict by the names of the parameters."""
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
        return _Converter(arguments, self._what)

    @cached_property
    def _result(self) -> _Converter:
        """Converter of the result."""
        return _Converter(self._hints.get("return", Any), f"{self._what}: its result")

    def resolve(self) -> None:
        """Check that the annotations can be used.

        Raises:
            TaskDataError: An annotation cannot be resolved.
        """
        _ = self._arguments

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plain arguments of a call by the names of their parameters.

        Raises:
            TypeError: The function does not take these arguments.
            TaskDataError: An argument does not match its annotation, or cannot be written as JSON.
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
                as_plain(value, f"{self._what}: argument {shown(name)}")
            raise
        self._arguments.read(data)
        plain: dict[str, Any] = _decode(data)
        return plain

    def unfit(self, plain: Mapping[str, Any]) -> str | None:
        """Return the reason if a version of the function without these parameters was meant.

        An argument has no parameter, or a parameter that needs one has no argument. A wrong type is
        another matter: no version of the function may take it.
        """
        unknown = sorted(plain.keys() - self._parameters.keys())
        if unknown:
            return f"{self._what} has no parameter {', '.join(map(shown, unknown))}"
        missing = self._required - plain.keys()
        if missing:
            names = ", ".join(map(shown, sorted(missing)))
            return f"{self._what} needs a value for its parameter {names}"
        return None

    def unbind(self, plain: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments for the function, all of them new values.

        Raises:
            TaskDataError: An argument is missing, unknown, or does not match its annotation.
        """
        if plain or self._parameters:
            unfit = self.unfit(plain)
            if unfit is not None:
                raise TaskDataError(unfit)
            values: dict[str, Any] = self._arguments.convert(plain)
            if self._all_by_name:
                return (), values
            bound = BoundArguments(self._signature, values)
            return bound.args, bound.kwargs
        return (), {}

    def json_result(self, result: object) -> bytes:
        """Return a result as JSON.

        Raises:
            TaskDataError: It does not match the annotation, or cannot be written as JSON.
        """
        try:
            data = _encode(result)
        except _UNWRITABLE:
            as_json(result, f"{self._what}: its result")
            raise
        self._result.read(data)
        return data

    def typed_result(self, plain: object) -> Any:
        """Return a result from its plain form.

        Raises:
            TaskDataError: It does not match the annotation.
        """
        return self._result.convert(plain)
