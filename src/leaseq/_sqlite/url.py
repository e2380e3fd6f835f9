"""The URL of a broker: the file, and how to write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import unquote

from .._core.texts import shown
from .._core.url_options import read_url_options
from .._core.validation import number

Synchronous = Literal["full", "normal"]

_SECONDS: Final = "a number of seconds from 0.001 to 86400"
_ESCAPES: Final = str.maketrans({each: f"%{ord(each):02X}" for each in "%?#"})
"""Characters of a path that would be read as the end of it, and their escapes."""
_FORM: Final = "sqlite:///folder/file.db, or sqlite:////absolute/folder/file.db"


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """The parts of a URL: ``sqlite:///file.db``, or ``sqlite:////absolute/file.db``.

    Attributes:
        path: The file.
        synchronous: ``"full"``: what was confirmed survives a power cut. ``"normal"``: it survives
            the end of the process, and a power cut may take the last moments; the file is whole in
            either case (``?synchronous=normal``).
        request_timeout: Seconds that opening the file, or one try to write, waits while another
            program writes and makes no progress (``?request_timeout=5``).
        adopt: True: a database of another application may be used, beside its own tables
            (``?adopt=true``).

    Raises:
        TypeError: the path is not one; or a number has another type.
        ValueError: a value is out of range.
    """

    path: Path
    synchronous: Synchronous = "full"
    request_timeout: float = 5.0
    adopt: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.path, Path):
            raise TypeError(
                f"path must be a Path, not {shown(self.path)}: SqliteUrl.parse reads a URL"
            )
        if self.synchronous not in get_args(Synchronous):
            raise ValueError(f'synchronous must be "full" or "normal", not {self.synchronous!r}')
        if not _is_patient(number("request_timeout", self.request_timeout, _SECONDS)):
            raise ValueError(
                f"request_timeout must be {_SECONDS}, not {shown(self.request_timeout)}"
            )

    @classmethod
    def parse(cls, url: str) -> SqliteUrl:
        """Read a URL. O(its length).

        Args:
            url: As ``sqlite:///folder/file.db?option=value``, relative to the working directory;
                with a fourth slash the path is absolute.

        Raises:
            TypeError: it is not a string.
            ValueError: it is not such a URL.
        """
        if not isinstance(url, str):
            raise TypeError(f"the URL of a file must be a string, not {type(url).__name__}")
        scheme, separator, rest = url.partition("://")
        if not separator or scheme.lower() != "sqlite":
            raise ValueError(f"the URL of a file is {_FORM}, not {shown(url)}")
        if "#" in rest:
            raise ValueError(f"the URL of a file has no #fragment: write # as %23, in {shown(url)}")
        location, _, query = rest.partition("?")
        host, slash, path = location.partition("/")
        if host or not slash:
            raise ValueError(f"a file has no host: its URL is {_FORM}, not {shown(url)}")
        path = unquote(path)
        if not path or path.endswith("/") or "\0" in path:
            raise ValueError(f"the URL names no file: it is {_FORM}, not {shown(url)}")
        if path == ":memory:":
            raise ValueError("memory:// is the engine in this process; sqlite:/// needs a file")
        return cls(Path(path), **read_url_options(query, _OPTIONS, may_name=True))

    def __str__(self) -> str:
        return f"sqlite:///{str(self.path).translate(_ESCAPES)}"


def _synchronous(_name: str, text: str) -> str:
    if text.lower() not in get_args(Synchronous):
        raise ValueError(f"synchronous in the URL is full or normal, not {shown(text)}")
    return text.lower()


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _is_patient(seconds):
        raise ValueError(f"{name} in the URL is not {_SECONDS}")
    return seconds


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{name} in the URL is true or false, not {shown(text)}")
    return text.lower() == "true"


def _is_patient(seconds: float) -> bool:
    return 0.001 <= seconds <= 86_400


_OPTIONS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "synchronous": _synchronous,
    "request_timeout": _seconds,
    "adopt": _flag,
}
