"""Tests that are coroutines."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Awaitable, Callable

from helpers.processes import LIMIT


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own; one that hangs fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            await asyncio.wait_for(test(*args, **kwargs), LIMIT)

        asyncio.run(limited())

    return run


async def eventually(found: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until ``await found()`` is true, and return it. What calls this has a limit."""
    while True:
        value = await found()
        if value:
            return value
        await asyncio.sleep(0.005)
