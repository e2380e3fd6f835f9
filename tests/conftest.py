"""The backends that the tests run on."""

from collections.abc import Callable

import pytest

from leaseq.testing import virtual_backend

pytest.register_assert_rewrite("leaseq.testing.contract")

Backend = tuple[str, dict[str, object]]

REAL_TIME: dict[str, Callable[[], Backend]] = {
    "asyncio": lambda: ("asyncio", {}),
    "asyncio+uvloop": lambda: ("asyncio", {"use_uvloop": True}),
    "trio": lambda: ("trio", {}),
}
VIRTUAL_TIME: dict[str, Callable[[], Backend]] = {
    "asyncio+virtual": lambda: virtual_backend("asyncio"),
    "trio+virtual": lambda: virtual_backend("trio"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "virtual_time: run where the clock jumps to the next timer, on both libraries"
    )
    config.addinivalue_line("markers", "only(library): run on asyncio alone, or on trio alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a backend on each; what also takes ``native`` once for each way to cancel."""
    if "anyio_backend" not in metafunc.fixturenames:
        return
    virtual = metafunc.definition.get_closest_marker("virtual_time")
    only = metafunc.definition.get_closest_marker("only")
    names = [
        name
        for name in (VIRTUAL_TIME if virtual else REAL_TIME)
        if only is None or name.split("+")[0] in only.args
    ]
    if "native" not in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", names, indirect=True)
        return
    ways = [
        pytest.param(name, native, id=f"{name}-{'native' if native else 'scope'}")
        for name in names
        for native in ([False] if name.startswith("trio") else [False, True])
    ]
    metafunc.parametrize(("anyio_backend", "native"), ways, indirect=["anyio_backend"])


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    make_backend = (REAL_TIME | VIRTUAL_TIME)[request.param]
    return make_backend()
