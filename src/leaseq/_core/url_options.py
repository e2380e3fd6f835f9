"""The options in the URL of a broker. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl

from .texts import shown


def read_url_options(
    query: str, known: Mapping[str, Callable[[str, str], Any]], *, may_name: bool, advice: str = ""
) -> dict[str, Any]:
    """Return the options in the query of a URL, read.

    Args:
        query: The part of the URL that follows the question mark.
        known: Functions that read the text of an option, by the names of the options.
        may_name: False: what seems to be the name of an option may be a part of a password.
        advice: The end of the error for an unknown option.

    Raises:
        ValueError: an option is unknown, is there twice, or has an invalid value.
    """
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if name not in known:
            similar = get_close_matches(name.lower(), known, 1)
            which = f" {shown(name)}" if may_name or similar else ""
            hint = f" (did you mean {similar[0]}?)" if similar else ""
            raise ValueError(
                f"unknown option{which} in the URL{hint}: there are {', '.join(known)}{advice}"
            )
        if name in options:
            raise ValueError(f"{name} is in the URL twice: leave one of them out")
        options[name] = known[name](name, text)
    return options
