"""
Fixtures for pytest: each test gets a channel layer of its own, and its shared memory is removed after it.

pytest finds this module by itself wherever asgi_ipc is installed: nothing heavy is imported before a fixture is used.

``ipc_prefix``
    a prefix that nothing else uses. All shared memory under it is removed after the test, whoever has made it.
``ipc_layer``
    an ``IPCChannelLayer`` on that prefix.
``ipc_channel_layer``
    an ``AsyncIPCChannelLayer`` on that prefix.
``ipc_channel_layers``
    Django's ``CHANNEL_LAYERS`` with prefixes of this test; its value is ``channels.layers.channel_layers``.
``ipc_options``
    the options of these layers, a dict. Override it in a module, a class or a ``conftest.py``.

All of them talk to each other within a test. What they have made is closed after it.
"""

from __future__ import annotations

__all__ = ["ipc_channel_layer", "ipc_channel_layers", "ipc_layer", "ipc_options", "ipc_prefix"]

import os
import secrets
from typing import TYPE_CHECKING, Any, Dict, Iterator, List

import pytest

if TYPE_CHECKING:
    from . import AsyncIPCChannelLayer, IPCChannelLayer

ASYNC_LAYER = "asgi_ipc.AsyncIPCChannelLayer"


@pytest.fixture
def ipc_prefix() -> Iterator[str]:
    """A prefix that nothing else uses; the shared memory under it is removed after the test."""
    prefix = f"pytest-{os.getpid()}-{secrets.token_hex(6)}"
    yield prefix
    _remove(prefix)


@pytest.fixture
def ipc_options() -> Dict[str, Any]:
    """Options of the layers that the other fixtures make: none. Override this fixture to set some."""
    return {}


@pytest.fixture
def ipc_layer(ipc_prefix: str, ipc_options: Dict[str, Any]) -> Iterator[IPCChannelLayer]:
    """A synchronous layer on this test's prefix."""
    from . import IPCChannelLayer

    with IPCChannelLayer(**{**ipc_options, "prefix": ipc_prefix}) as layer:
        yield layer


@pytest.fixture
def ipc_channel_layer(ipc_prefix: str, ipc_options: Dict[str, Any]) -> Iterator[AsyncIPCChannelLayer]:
    """An asynchronous layer on this test's prefix, as Channels 2 to 4 use it."""
    from . import AsyncIPCChannelLayer

    layer = AsyncIPCChannelLayer(**{**ipc_options, "prefix": ipc_prefix})
    yield layer
    _close([layer])


@pytest.fixture
def ipc_channel_layers(ipc_prefix: str, ipc_options: Dict[str, Any]) -> Iterator[Any]:
    """
    Django's ``CHANNEL_LAYERS`` with prefixes of this test, for Channels 2 to 4.

    ``default`` is an ``AsyncIPCChannelLayer`` on ``ipc_prefix``, whatever the settings say. Other aliases that use
    asgi_ipc get a prefix of this test as well, and aliases that shared one still do. Their options stay
    (``TEST_CONFIG`` counts before ``CONFIG``), but for those of ``ipc_options``. Aliases of other layers stay too.
    """
    try:
        from channels.layers import channel_layers
    except ImportError:
        raise pytest.UsageError(
            "the fixture ipc_channel_layers needs Channels 2 to 4: pip install 'asgi_ipc[channels]'"
        ) from None
    from django.conf import settings
    from django.test.utils import override_settings

    from . import AsyncIPCChannelLayer

    prefixes: Dict[str, str] = {}
    changed = _with_prefixes(getattr(settings, "CHANNEL_LAYERS", {}), ipc_prefix, ipc_options, prefixes)
    with override_settings(CHANNEL_LAYERS=changed):
        yield channel_layers
        _close([layer for layer in channel_layers.backends.values() if isinstance(layer, AsyncIPCChannelLayer)])
    for prefix in prefixes.values():
        _remove(prefix)


def _with_prefixes(
    configured: Dict[str, Any], first: str, options: Dict[str, Any], prefixes: Dict[str, str]
) -> Dict[str, Any]:
    """
    The setting ``CHANNEL_LAYERS`` with other prefixes: ``first`` for ``default`` and those that share its prefix.

    Which prefix was replaced by which is put into ``prefixes``.
    """
    found = {"default": {"BACKEND": ASYNC_LAYER}, **configured}
    if not _is_ours(found["default"]):
        found["default"] = {"BACKEND": ASYNC_LAYER}
    for alias in sorted(found, key=lambda alias: alias != "default"):
        if _is_ours(found[alias]):
            config = found[alias].get("TEST_CONFIG", found[alias].get("CONFIG", {}))
            before = config.get("prefix", "asgi")
            prefix = prefixes.setdefault(before, f"{first}.{len(prefixes)}" if prefixes else first)
            config = {**config, **options, "prefix": prefix}
            found[alias] = {**found[alias], "CONFIG": config, "TEST_CONFIG": config}
    return found


def _is_ours(setting: Dict[str, Any]) -> bool:
    from django.utils.module_loading import import_string

    from . import AsyncIPCChannelLayer

    backend = import_string(setting["BACKEND"]) if "BACKEND" in setting else None
    return isinstance(backend, type) and issubclass(backend, AsyncIPCChannelLayer)


def _close(layers: List[Any]) -> None:
    """Close asynchronous layers, in a thread of its own: this one may have a running event loop."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        for layer in layers:
            executor.submit(asyncio.run, layer.close()).result()


def _remove(prefix: str) -> None:
    from .cli.unlink import remove

    _, kept = remove(prefix)
    if kept:
        pytest.fail(f"shared memory of this test is left: {'; '.join(kept)}")
