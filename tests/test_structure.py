"""How the house is built: which file may know of which."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import leaseq
import leaseq.tasks

ROOT = Path(leaseq.__file__).parent

LAYERS = [
    {"_core"},
    {"abc"},
    {"_rules"},
    {"_memory", "_remote"},
    {"_sqlite", "_valkey"},
    {"memory", "sqlite", "valkey"},
    {"_connect"},
    {"_handler_in_process"},
    {"_batcher", "_pool"},
    {"tasks"},
    {"testing"},
    {"_cli"},
    {"__main__"},
]
"""Files and folders of the package, the lowest first: each imports from lower ones only."""

ENGINES = {
    "memory": {"_memory", "memory"},
    "sqlite": {"_sqlite", "sqlite"},
    "valkey": {"_valkey", "valkey"},
}
"""The rooms of each engine, its face among them."""
CLIENT = "_remote"
"""The client of any store that processes share: only stores know of it."""
STORES = {"_sqlite", "_valkey"}
SEAM = {f"leaseq._remote.{name}" for name in ("checks", "encoding", "protocol", "stored_options")}
"""The part of the client that stores know: the protocol, and what all of them do alike."""
MAY_NAME_ENGINES = {"leaseq", "leaseq._connect"}

AROUND_THE_CORE = {"__main__", "_cli", "testing"}
"""What uses the package as its users do, and may need more than the package does."""

BY_AN_EXTRA = {
    ("leaseq._core.codec", "msgspec"),
    ("leaseq._core.codec", "msgspec.json"),
    ("leaseq.tasks._config", "yaml"),
    ("leaseq.tasks._slots", "cronsim"),
}
"""What the core uses of an extra's, when it is asked to and not before."""

SANS_IO = {
    *(f"leaseq._rules.{name}" for name in ("by_key", "capacity", "ledger", "moves", "plan")),
    *(f"leaseq._rules.{name}" for name in ("ready_list", "schedule", "timers", "waiters")),
    *(
        f"leaseq._core.{name}"
        for name in ("heap", "limits", "messages", "queue_options", "requests")
    ),
    "leaseq._batcher.buffer",
    "leaseq._remote.checks",
    "leaseq._remote.encoding",
    "leaseq._remote.stored_options",
    "leaseq._valkey.times",
}
"""The rules, and what they are made of: nothing in them waits or tells the time."""
PLAIN = {
    f"leaseq._core.{name}"
    for name in (
        "codec",
        "errors",
        "options",
        "policies",
        "reports",
        "texts",
        "validation",
        "values",
    )
} | {"leaseq._remote.protocol"}
"""What the rules may use of all that is there."""
IO = {
    *("asyncio", "concurrent", "datetime", "queue", "sched", "select", "selectors", "signal"),
    *("socket", "subprocess", "threading", "time"),
}
"""What waits or tells the time, of the standard library."""


def module_name(path: Path) -> str:
    """`leaseq._rules.ledger` for its file, `leaseq.memory` for that of the folder."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


@dataclass(frozen=True)
class Import:
    """That one module imports another when it runs."""

    of: str
    lazily: bool = False
    """Only when a function is called."""


def imports(name: str, tree: ast.Module) -> set[Import]:
    """What a module imports at run time: what it imports for type checkers only is left out."""
    is_package = FILES.get(name, Path()).name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]
    return {
        Import(of, lazily)
        for statement, lazily in import_statements(tree, lazily=False)
        for of in imported_modules(statement, package)
    }


def import_statements(
    node: ast.AST, *, lazily: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazily
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for otherwise in child.orelse:
                yield from import_statements(otherwise, lazily=lazily)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from import_statements(child, lazily=lazily or in_function)


def imported_modules(statement: ast.Import | ast.ImportFrom, package: str) -> set[str]:
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names}
    base = statement.module or ""
    if statement.level:
        above = package.split(".")[: len(package.split(".")) - statement.level + 1]
        base = ".".join([*above, base] if base else above)
    members = {f"{base}.{alias.name}" for alias in statement.names}
    return {member if member in FILES else base for member in members}


IMPORTS = {name: imports(name, tree) for name, tree in TREES.items()}


def part(name: str) -> str:
    """The file or folder right in the package that a module is in; "leaseq" for the package."""
    return name.split(".")[1] if "." in name else name


def own_imports() -> Iterator[tuple[str, str]]:
    """Which module of the package imports which."""
    for name, found in IMPORTS.items():
        for each in found:
            if part(each.of) == "leaseq" or each.of.startswith("leaseq."):
                yield name, each.of


def test_the_imports_of_a_module_are_found_wherever_they_stand() -> None:
    source = """
import os.path, leaseq._core.errors
from . import engine
from .timekeeper import Timekeeper
from .._core.options import Put as Outcome
from anyio import Event
try:
    import trio
except ImportError:
    pass
if TYPE_CHECKING:
    from ..abc import LeasedQueue
else:
    LeasedQueue = __import__
def function():
    import rich
class Class:
    async def method(self):
        from .._core import heap, PutOutcome
"""
    assert imports("leaseq._memory.queue", ast.parse(source)) == {
        Import("os.path"),
        Import("leaseq._core.errors"),
        Import("leaseq._memory.engine"),
        Import("leaseq._memory.timekeeper"),
        Import("leaseq._core.options"),
        Import("anyio"),
        Import("trio"),
        Import("rich", lazily=True),
        Import("leaseq._core.heap", lazily=True),
        Import("leaseq._core", lazily=True),
    }
    assert imports("leaseq._memory", ast.parse("from .queue import LeasedKeyQueue")) == {
        Import("leaseq._memory.queue")
    }


# The way of the imports


def test_every_file_and_folder_has_its_layer() -> None:
    placed = set[str]().union(*LAYERS)
    new = {part(name) for name in FILES} - placed - {"leaseq"}
    assert not new, "say in LAYERS what they may import"


def test_imports_point_one_way() -> None:
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    wrong = [
        f"{name} imports {of}"
        for name, of in own_imports()
        if "leaseq" not in {name, of}
        and part(name) != part(of)
        and layer[part(name)] <= layer[part(of)]
    ]
    assert wrong == []


def test_no_two_modules_need_each_other() -> None:
    graph: dict[str, set[str]] = {name: set() for name in FILES}
    for name, of in own_imports():
        graph[name].add(of)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_two_modules_of_the_rules_name_each_other_even_in_annotations() -> None:
    graph = {name: set[str]() for name in FILES if part(name) == "_rules"}
    for name in graph:
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Import | ast.ImportFrom):
                graph[name] |= imported_modules(node, name.rpartition(".")[0]) & graph.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" names ".join(reversed(error.args[1])))


def test_no_two_modules_name_each_other_even_for_type_checkers() -> None:
    graph: dict[str, set[str]] = {}
    for name, tree in TREES.items():
        package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = {
            module
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for module in imported_modules(node, package)
            if module in FILES
            and module != name
            and not (part(name) == part(module) == "abc")  # a lease names its queue
        }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" names ".join(reversed(error.args[1])))


def test_the_package_itself_is_only_imported_by_what_is_around_the_core() -> None:
    wrong = [
        name for name, of in own_imports() if of == "leaseq" and part(name) not in AROUND_THE_CORE
    ]
    assert wrong == []


def test_the_package_imports_nothing_that_is_around_the_core() -> None:
    found = {part(of) for name, of in own_imports() if name == "leaseq"}
    assert found.isdisjoint(AROUND_THE_CORE)


def test_nothing_outside_an_engine_names_it() -> None:
    wrong = [
        f"{name} imports {of}"
        for name, of in own_imports()
        for rooms in ENGINES.values()
        if part(of) in rooms and part(name) not in rooms and name not in MAY_NAME_ENGINES
    ]
    assert wrong == []


def test_nothing_but_stores_knows_the_client_of_stores() -> None:
    rooms = {CLIENT, *ENGINES["sqlite"], *ENGINES["valkey"]}
    wrong = [
        f"{name} imports {of}"
        for name, of in own_imports()
        if part(of) == CLIENT and part(name) not in rooms
    ]
    assert wrong == []


def test_a_store_knows_the_protocol_and_its_broker_the_client() -> None:
    wrong = [
        f"{name} imports {of}"
        for name, of in own_imports()
        if part(name) in STORES
        and part(of) == CLIENT
        and of not in SEAM
        and name not in {f"leaseq.{store}.broker" for store in STORES}
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(name for name in FILES if part(name) == CLIENT))
def test_the_client_of_stores_does_not_name_one(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8").lower()
    assert [word for word in ("sqlite", "valkey", "redis", "lua", "script") if word in text] == []


def test_the_core_needs_anyio_alone() -> None:
    allowed = sys.stdlib_module_names | {"anyio", "leaseq", "trio"}
    others = AROUND_THE_CORE | {"tasks", "_valkey", "valkey"}
    wrong = [
        f"{name} imports {each.of}"
        for name, found in IMPORTS.items()
        for each in found
        if part(name) not in others and each.of.split(".")[0] not in allowed
        if not (each.lazily and (name, each.of) in BY_AN_EXTRA)
    ]
    assert wrong == []


def test_tasks_need_msgspec_alone() -> None:
    allowed = sys.stdlib_module_names | {"anyio", "leaseq", "msgspec"}
    wrong = [
        f"{name} imports {each.of}"
        for name, found in IMPORTS.items()
        for each in found
        if part(name) == "tasks"
        and each.of.split(".")[0] not in allowed
        and not (each.lazily and (name, each.of) in BY_AN_EXTRA)
    ]
    assert wrong == []


def test_the_package_itself_does_not_import_tasks() -> None:
    wrong = [name for name, of in own_imports() if part(of) == "tasks" and part(name) != "tasks"]
    assert {part(name) for name in wrong} == {"_cli"}


def test_trio_is_imported_only_where_it_runs() -> None:
    wrong = [
        name
        for name, found in IMPORTS.items()
        for each in found
        if each.of.split(".")[0] == "trio" and not each.lazily
    ]
    assert wrong == []


def test_the_package_can_be_imported_with_nothing_but_anyio() -> None:
    program = """
import sys
for absent in ("trio", "typer", "rich", "uvloop", "msgspec", "yaml", "hiredis"):
    sys.modules[absent] = None
import leaseq
leaseq.connect("sqlite:///queues.db")
print(*[name for name in sys.modules if name.startswith("leaseq.")])
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=unmeasured(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert {part(name) for name in run.stdout.split()}.isdisjoint(AROUND_THE_CORE)


# Sans-IO


@pytest.mark.parametrize("name", sorted(SANS_IO))
def test_sans_io_files_import_nothing_that_waits_or_tells_the_time(name: str) -> None:
    allowed = (sys.stdlib_module_names - IO) | SANS_IO | PLAIN
    found = {each.of if each.of in FILES else each.of.split(".")[0] for each in IMPORTS[name]}
    assert found <= allowed


@pytest.mark.parametrize("name", sorted(SANS_IO))
def test_sans_io_files_never_wait(name: str) -> None:
    waits = [
        ast.unparse(node)
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncFunctionDef | ast.AsyncWith)
        or (isinstance(node, ast.comprehension) and node.is_async)
    ]
    assert waits == []


# What a reader finds


@pytest.mark.parametrize("name", FILES)
def test_modules_and_what_they_offer_others_have_docstrings(name: str) -> None:
    tree = TREES[name]
    offered = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not any(ast.unparse(mark) == "overload" for mark in node.decorator_list)
    ]
    assert ast.get_docstring(tree)
    assert [node.name for node in offered if not ast.get_docstring(node)] == []


FREE_RELATIVE = re.compile(
    r"(What|Whatever|Whether|Who|Whoever|Whom|Whose|Which|Whichever|Where|When|How|Why|That|Those"
    r"|Nobody|Somebody|Everybody)\b"
)
ENTRY = re.compile(r" +[*`\w, ]+: (.*)")
"""A line of `Args`, `Attributes` or `Raises`: the name, and the beginning of its text."""


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All docstrings of a module, of private functions and of attributes too, by their lines."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.value


def openers(docstring: str) -> Iterator[tuple[int, str]]:
    """The beginning of a docstring, and that of each of its entries, by their lines."""
    for number, line in enumerate(docstring.splitlines()):
        entry = ENTRY.fullmatch(line)
        if number == 0 or entry:
            yield number, entry[1] if entry else line


def free_relatives(tree: ast.Module) -> list[str]:
    """The openers of a module that say "What it is" for "The thing"."""
    return [
        f"line {start + number}: {opener}"
        for start, text in docstrings(tree)
        for number, opener in openers(text)
        if FREE_RELATIVE.match(opener)
    ]


@pytest.mark.parametrize("name", FILES)
def test_docstrings_open_with_a_verb_or_a_noun(name: str) -> None:
    assert free_relatives(TREES[name]) == []


def test_openers_are_found_wherever_they_stand() -> None:
    source = '''
"""What this is."""
limit = 3
"""How many there are."""
def _private():
    """Return it.

    Args:
        over: Whether it is.
        name: The name. What it is not
            count: How often.
    """
    def within():
        """That it works."""
class Class:
    """The class."""
    kept: bool
    """Whether it is kept."""
'''
    found = [line.partition(":")[0] for line in free_relatives(ast.parse(source))]
    assert sorted(found) == sorted(f"line {n}" for n in (2, 4, 9, 11, 14, 18))


PUBLIC_CLASSES = [
    getattr(package, name)
    for package in (leaseq, leaseq.tasks)
    for name in package.__all__
    if isinstance(getattr(package, name), type)
]


@pytest.mark.parametrize("public", PUBLIC_CLASSES, ids=lambda public: public.__name__)
def test_public_methods_have_docstrings_of_their_own_or_of_the_contract(public: type) -> None:
    methods = {
        each: getattr(public, each)
        for base in public.__mro__
        if base.__module__.startswith("leaseq")
        for each, member in vars(base).items()
        if not each.startswith("_") and callable(member)
    }
    assert [each for each, method in methods.items() if not inspect.getdoc(method)] == []


# Classes

CLASSES = {
    (name, node.name): node
    for name, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
}

EXTENSION_POINTS = {
    "LeasedQueue": "the contract, which each engine's queue keeps",
    "Broker": "the contract, which each engine's broker keeps",
    "Transaction": "the contract, which each engine's transaction keeps",
    "Lease": "what holds an item, of which each engine may have its own kind",
    "Waiter": "sans-IO, and once with the event that wakes it",
    "TaskHandler": "for users to subclass",
    "TakeOptions": "options, as a type: those of get are these and more",
    "GetOptions": "options, as a type: those of a pool are these and more",
    "PoolOptions": "options, as a type: those of serve are these and more",
    "JsonCodec": "for users to subclass",
    "RemoteBroker": "the broker of any store, of which each has its own way to be opened",
    "Heap": "a container: by itself the turns of tenants, and with its stale entries deadlines",
}
"""Classes that may have a single subclass in the library, with the reason."""

MOST_FROM_ELSEWHERE = 0.08


def is_error(node: ast.ClassDef) -> bool:
    return node.name.endswith("Error") or any("Exception" in ast.unparse(b) for b in node.bases)


def subclasses() -> dict[str, set[str]]:
    """The names of the classes of the package, with those of their subclasses in it."""
    known = {node.name for node in CLASSES.values()}
    found: dict[str, set[str]] = {}
    for (module, name), node in CLASSES.items():
        for base in node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(plain, ast.Name) and plain.id in known:
                found.setdefault(plain.id, set()).add(f"{module}.{name}")
    return found


def attributes_from_elsewhere() -> tuple[int, int]:
    """Count the ``self.NAME`` that a class's own body does not define, and all there are."""
    elsewhere = total = 0
    for node in CLASSES.values():
        own, used = own_attributes(node)
        total += len(used)
        elsewhere += sum(name not in own for name in used)
    return elsewhere, total


def own_attributes(node: ast.ClassDef) -> tuple[set[str], list[str]]:
    """The names that a class's body defines, and those that it looks up on ``self``."""
    own: set[str] = set()
    used: list[str] = []
    for member in node.body:
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(member.name)
        elif isinstance(member, ast.AnnAssign):
            own.add(ast.unparse(member.target))
        elif isinstance(member, ast.Assign):
            own.update(map(ast.unparse, member.targets))
        for inner in ast.walk(member):
            if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "self":
                if isinstance(inner.ctx, ast.Load):
                    used.append(inner.attr)
                else:
                    own.add(inner.attr)
    return own, used


def test_no_class_is_made_to_cut_another_into_pieces() -> None:
    errors = {node.name for node in CLASSES.values() if is_error(node)}
    alone = {
        base: names
        for base, names in subclasses().items()
        if len(names) == 1 and base not in errors and base not in EXTENSION_POINTS
    }
    assert alone == {}


def test_what_a_class_calls_on_itself_is_defined_in_its_own_body() -> None:
    elsewhere, total = attributes_from_elsewhere()
    assert elsewhere / total < MOST_FROM_ELSEWHERE


def test_attributes_from_elsewhere_are_found() -> None:
    source = """
class Class(Base):
    limit = 3
    name: str
    def __init__(self):
        self.made = self.limit
    def method(self):
        return self.made, self.name, self.method, self.inherited
"""
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    own, used = own_attributes(node)
    assert own == {"limit", "name", "__init__", "made", "method"}
    assert [name for name in used if name not in own] == ["inherited"]


@pytest.mark.parametrize("name", [name for name in FILES if part(name) == "_core"])
def test_the_ground_floor_names_no_other_floor_even_for_type_checkers(name: str) -> None:
    package = name.rpartition(".")[0]
    named = {
        module
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in imported_modules(node, package)
        if module.startswith("leaseq.")
    }
    assert {part(module) for module in named} <= {"_core"}


# What is imported when


def unmeasured() -> dict[str, str]:
    """The environment of a process whose coverage is not measured, as that imports modules too."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def imported_by(program: str) -> set[str]:
    """The modules that a program imports, which ends with its last line."""
    shown = f"{program}\nimport sys\nprint('modules:', *sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", shown],
        env=unmeasured(),
        check=True,
        capture_output=True,
        text=True,
    )
    return set(run.stdout.rpartition("modules:")[2].split())


def with_parts(names: set[str], *parts: str) -> set[str]:
    """The names that are one of these modules, or in one of them."""
    return {name for name in names if any(f"{name}.".startswith(f"{part}.") for part in parts)}


SLOW = ("asyncio", "email", "hashlib", "http", "importlib.metadata", "importlib.resources")
SLOW += ("msgspec", "multiprocessing", "pathlib", "rich", "socket", "ssl", "trio", "typer", "yaml")
"""Modules each of which takes a tenth or more of the time of an import: they are for those who use
them."""


def test_the_package_imports_nothing_until_a_name_is_used() -> None:
    own = with_parts(imported_by("import leaseq"), "leaseq", "anyio", "dataclasses", "logging")
    assert own == {"leaseq"}


def test_the_names_of_the_package_are_imported_from_where_the_type_checkers_look() -> None:
    block = next(node for node in TREES["leaseq"].body if isinstance(node, ast.If))
    homes = {
        f"{statement.module}": tuple(alias.name for alias in statement.names)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
    }
    assert homes == leaseq._HOMES
    assert sorted(name for names in homes.values() for name in names) == sorted(leaseq.__all__)


def test_the_package_knows_all_its_names_and_no_others() -> None:
    assert set(leaseq.__all__) <= set(dir(leaseq))
    with pytest.raises(AttributeError, match="module 'leaseq' has no attribute 'nothing'"):
        leaseq.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("program", "others"),
    [
        ("from leaseq import LeasedKeyQueue, serve, Batcher", ("leaseq._remote",)),
        ("from leaseq import Batcher", ("leaseq._memory", "leaseq._remote", "leaseq._rules")),
        (
            "import leaseq.valkey",
            ("leaseq._memory", "leaseq._rules", "leaseq._batcher", "leaseq._pool"),
        ),
        ("import leaseq; leaseq.connect('valkey://localhost')", ("leaseq._memory",)),
        ("import leaseq._cli.app; leaseq._cli.app.make_app()", ("leaseq.abc", "anyio")),
    ],
)
def test_an_import_brings_nothing_slow_and_no_engine_that_is_not_used(
    program: str, others: tuple[str, ...]
) -> None:
    slow = set(SLOW) - ({"pathlib", "typer"} if "_cli" in program else set())
    assert with_parts(imported_by(program), *slow, *others) == set()


def test_an_overview_of_the_commands_imports_none_of_them() -> None:
    program = """
import contextlib, sys
import leaseq._cli
sys.argv = ["leaseq", "--help"]
with contextlib.suppress(SystemExit):
    leaseq._cli.main()
"""
    found = imported_by(program)
    light = {"leaseq", "leaseq._core", "leaseq._core.texts"}
    assert with_parts(found, "leaseq") - light == {
        f"leaseq._cli{part}" for part in ("", ".app", ".streams")
    }
    assert with_parts(found, "anyio", "asyncio", "importlib.metadata", "msgspec", "rich") == set()


def test_a_queue_on_trio_does_not_import_asyncio() -> None:
    program = """
import contextlib, trio
from leaseq import Batcher, LeasedKeyQueue, LeaseqError, serve

async def flush(items):
    raise ValueError

async def handle(lease):
    raise ValueError

async def main():
    async with trio.open_nursery() as nursery, LeasedKeyQueue() as queue, Batcher(flush) as batcher:
        await nursery.start(queue.run)
        await nursery.start(batcher.run)
        await nursery.start(serve, queue, handle, 2)
        await queue.put("key", "value")
        await batcher.add("item")
        with trio.move_on_after(0.05):
            await queue.join()
        nursery.cancel_scope.cancel()

with contextlib.suppress(BaseExceptionGroup, LeaseqError):
    trio.run(main)
"""
    assert with_parts(imported_by(program), "asyncio") == set()
