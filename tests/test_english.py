"""The English of the package, as far as a machine can judge it."""

import ast
import re
from pathlib import Path

import pytest

import leaseq

ROOT = Path(leaseq.__file__).parent

RELATIVE = re.compile(
    r"(What|Whatever|Whether|Who|Whoever|Whom|Whose|How|Those|One|Nobody|Somebody|Everybody"
    r"|Where|Which|When|That)\b"
)

FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


def first_lines(source: str) -> list[str]:
    """The first line of each docstring of a module."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [
        ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)
    ]
    return [text.splitlines()[0] for text in docstrings if text]


@pytest.mark.parametrize("name", FILES)
def test_a_docstring_opens_with_a_verb_or_with_a_noun(name: str) -> None:
    """A first line is read alone: in an editor, an index, a list of names.

    "Return the number of waiting items" says there what a name stands for. "How many items wait"
    and "What is in there" have no noun or verb to look for, and leave out whether they are
    returned, raised or done.
    """
    lines = first_lines(FILES[name].read_text(encoding="utf-8"))
    assert [line for line in lines if RELATIVE.match(line)] == []


def test_the_first_lines_of_all_docstrings_are_found() -> None:
    source = '''
"""Whose turn it is.

More.
"""
class Class:
    """One thing."""
    async def method(self):
        """How often."""
        def inner():
            """Onerous."""
    def bare(self): ...
'''
    lines = first_lines(source)
    assert lines == ["Whose turn it is.", "One thing.", "How often.", "Onerous."]
    assert [line for line in lines if RELATIVE.match(line)] == lines[:3]
