"""The fields that the operations of the Lua take, read from its text.

The Lua is written so that this can be read off it: what comes in is taken by `take` and its kin
alone, from the front to the back of each function; several of something are taken by a loop up to
`take_number()`; and a function that takes more is called `take_...` and has no arguments.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TypeAlias

Taken: TypeAlias = "tuple[str, str] | list[Taken]"
"""How a field is taken, and its name or "" if it has none; or the fields of each of several."""

PRIMITIVES = {
    "take": "text",
    "take_number": "number",
    "take_span": "span",
    "take_queue": "queue",
}
FUNCTION = re.compile(
    r"^(?P<indent> *)(?:local )?function (?P<name>[\w.]+)\((?P<args>[^)]*)\)\n"
    r"(?P<body>.*?)^(?P=indent)end",
    re.MULTILINE | re.DOTALL,
)
MADE = re.compile(
    r"^ *(?:local )?(?P<name>[\w.]+) = (?P<maker>query|settle|settlement)\((?P<args>[^\n]*)",
    re.MULTILINE,
)
LOOP = re.compile(r"^(?P<indent> *)for \w+ = 1, take_number\(\) do$")
CALL = re.compile(r"(?:(?P<name>[\w.]+) = )?\b(?:\w+\.)?(?P<how>take\w*)\(\)")
ASSIGNED = re.compile(r"^ *local (?P<names>[\w, ]+) = (?P<calls>(?:take\w*\(\)(?:, )?)+)$")


@dataclass(frozen=True)
class Function:
    """The arguments and the body of a function."""

    args: list[str]
    body: str


class Lua:
    """One file of the Lua, and those whose functions it uses."""

    def __init__(self, *names: str) -> None:
        folder = files("leaseq._valkey") / "lua"
        texts = [(folder / f"{name}.lua").read_text() for name in names]
        self.text = "\n".join(re.sub(r" *--.*", "", text) for text in texts)

    @cached_property
    def functions(self) -> dict[str, Function]:
        """All functions, by name, nested ones as well."""
        found: dict[str, Function] = {}
        for each in self._functions_in(self.text):
            found.setdefault(each["name"], Function(_split(each["args"]), each["body"]))
        return found

    def _functions_in(self, text: str) -> Iterator[re.Match[str]]:
        for start in re.finditer(r"^ *(?:local )?function ", text, re.MULTILINE):
            each = FUNCTION.match(text, start.start())
            if each is not None:
                yield each

    @property
    def operations(self) -> set[str]:
        """The names in the table of a script's operations."""
        table = re.search(r"^local ops = \{(.*?)\}", self.text, re.MULTILINE | re.DOTALL)
        assert table is not None
        return set(re.findall(r"(\w+) =", table[1]))

    def fields(self, name: str) -> list[Taken]:
        """The fields of an operation: of the function of its name, or of how that is made."""
        for made in MADE.finditer(self.text):
            if made["name"] == name:
                maker = self.functions[made["maker"]]
                args = dict(zip(maker.args, _split(made["args"]), strict=False))
                return self._taken(maker.body, args)
        return self._taken(self.functions[name].body, {})

    def _taken(self, body: str, args: dict[str, str]) -> list[Taken]:
        taken: list[Taken] = []
        lines = iter(body.splitlines())
        for line in lines:
            loop = LOOP.match(line)
            if loop is None:
                taken += self._taken_by(line, args)
                continue
            inner = []
            for each in lines:
                if each == f"{loop['indent']}end":
                    break
                inner.append(each)
            taken += [("number", ""), self._taken("\n".join(inner), args)]
        return taken

    def _taken_by(self, line: str, args: dict[str, str]) -> Iterator[Taken]:
        assigned = ASSIGNED.match(line)
        names = _split(assigned["names"]) if assigned else []
        for number, call in enumerate(CALL.finditer(line)):
            how = args.get(call["how"], call["how"]).rpartition(".")[2]
            name = names[number] if names else (call["name"] or "").rpartition(".")[2]
            if how in PRIMITIVES:
                yield PRIMITIVES[how], name
            elif how != "nil":
                yield from self._taken(self.functions[how].body, {})


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")]
