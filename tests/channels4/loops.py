"""A decorator for tests that are coroutines, and polling in an event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from helpers.processes import LIMIT


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in a new event loop, with a limit on its time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            await asyncio.wait_for(test(*args, **kwargs), LIMIT)

        asyncio.run(limited())

    return run


async def eventually(found: Callable[[], Awaitable[Any]]) -> Any:
    """Poll until ``await found()`` is true, and return its value. The caller limits the time."""
    while True:
        value = await found()
        if value:
            return value
        await asyncio.sleep(0.005)
