"""What a type checker makes of virtual time."""

from typing import assert_type

import anyio

from leaseq.testing import VirtualEventLoop, advance, virtual_backend

name, options = assert_type(virtual_backend("asyncio"), tuple[str, dict[str, object]])
anyio.run(advance, 60, backend=name, backend_options=options)

virtual_backend("curio")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def wait_for_the_others(loop: VirtualEventLoop) -> None:
    assert_type(await advance(0.5), None)
    assert_type(await loop.idle(), None)
    assert_type(await loop.run_in_executor(None, len, "abc"), int)
