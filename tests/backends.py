"""The backends that the tests run on."""

from collections.abc import Callable

from tests.skipping import skipping_backend

from leaseq.testing import virtual_backend

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
SKIPPED_TIME: dict[str, Callable[[], Backend]] = {
    "asyncio+skipping": lambda: skipping_backend("asyncio"),
    "trio+skipping": lambda: skipping_backend("trio"),
}
