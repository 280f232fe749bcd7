"""
Fixtures for pytest: each test gets its own channel layer.

pytest loads this module wherever asgi_ipc is installed, so it imports nothing slow before a fixture is used.

``ipc_prefix``
    a unique prefix. All shared memory under it is removed after the test, whichever process created it.
``ipc_layer``
    an ``IPCChannelLayer`` on that prefix.
``ipc_channel_layer``
    an ``AsyncIPCChannelLayer`` on that prefix.
``ipc_channel_layers``
    Django's ``CHANNEL_LAYERS`` with prefixes for this test; its value is ``channels.layers.channel_layers``.
``ipc_options``
    the options of these layers, a dict. Override it in a module, a class or a ``conftest.py``.

Within a test, all these layers exchange messages. They are closed after the test.
"""

from __future__ import annotations

__all__ = ["ipc_channel_layer", "ipc_channel_layers", "ipc_layer", "ipc_options", "ipc_prefix"]

import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from . import AsyncIPCChannelLayer, IPCChannelLayer

ASYNC_LAYER = "asgi_ipc.AsyncIPCChannelLayer"


@pytest.fixture
def ipc_prefix() -> Iterator[str]:
    """
    A unique prefix. All shared memory under it is removed after the test, whichever process created it.

    Yields:
        The prefix, a ``str``.
    """
    prefix = f"pytest-{os.getpid()}-{secrets.token_hex(6)}"
    yield prefix
    _remove(prefix)


@pytest.fixture
def ipc_options() -> dict[str, Any]:
    """
    The options of the layers that the other fixtures create.

    Override this fixture in a module, a class or a ``conftest.py`` to set options.

    Returns:
        An empty dict.
    """
    return {}


@pytest.fixture
def ipc_layer(ipc_prefix: str, ipc_options: dict[str, Any]) -> Iterator[IPCChannelLayer]:
    """
    A synchronous layer with the prefix of ``ipc_prefix``. It is closed after the test.

    Yields:
        An ``IPCChannelLayer``.
    """
    from . import IPCChannelLayer

    with IPCChannelLayer(**{**ipc_options, "prefix": ipc_prefix}) as layer:
        yield layer


@pytest.fixture
def ipc_channel_layer(ipc_prefix: str, ipc_options: dict[str, Any]) -> Iterator[AsyncIPCChannelLayer]:
    """
    An asynchronous layer with the prefix of ``ipc_prefix``, for Channels 2 to 4. It is closed after the test.

    Yields:
        An ``AsyncIPCChannelLayer``.
    """
    from . import AsyncIPCChannelLayer

    layer = AsyncIPCChannelLayer(**{**ipc_options, "prefix": ipc_prefix})
    yield layer
    _close([layer])


@pytest.fixture
def ipc_channel_layers(ipc_prefix: str, ipc_options: dict[str, Any]) -> Iterator[Any]:
    """
    Django's ``CHANNEL_LAYERS`` with prefixes for this test, for Channels 2 to 4.

    ``default`` is an ``AsyncIPCChannelLayer`` with the prefix of ``ipc_prefix``, whatever the settings say. Other
    aliases that use asgi_ipc get their own prefixes for this test; aliases that share a prefix in the settings still
    share one. They keep their options (``TEST_CONFIG`` takes precedence over ``CONFIG``), except those in
    ``ipc_options``. Aliases of other layers are not changed. The layers are closed after the test.

    Yields:
        ``channels.layers.channel_layers``.

    Raises:
        pytest.UsageError: Channels 2 to 4 is not installed.
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

    prefixes: dict[str, str] = {}
    changed = _with_prefixes(getattr(settings, "CHANNEL_LAYERS", {}), ipc_prefix, ipc_options, prefixes)
    with override_settings(CHANNEL_LAYERS=changed):
        yield channel_layers
        _close([layer for layer in channel_layers.backends.values() if isinstance(layer, AsyncIPCChannelLayer)])
    for prefix in prefixes.values():
        _remove(prefix)


def _with_prefixes(
    configured: dict[str, Any], first: str, options: dict[str, Any], prefixes: dict[str, str]
) -> dict[str, Any]:
    """
    Return ``CHANNEL_LAYERS`` with other prefixes.

    ``default`` and the aliases that share its prefix get ``first``. ``prefixes`` gets the new prefix for each
    old one.
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


def _is_ours(setting: dict[str, Any]) -> bool:
    from django.utils.module_loading import import_string

    from . import AsyncIPCChannelLayer

    backend = import_string(setting["BACKEND"]) if "BACKEND" in setting else None
    return isinstance(backend, type) and issubclass(backend, AsyncIPCChannelLayer)


def _close(layers: list[Any]) -> None:
    """Close asynchronous layers, in another thread: this one may have a running event loop."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        for layer in layers:
            executor.submit(asyncio.run, layer.close()).result()


def _remove(prefix: str) -> None:
    from .cli.unlink import remove

    _, kept = remove(prefix)
    if kept:
        pytest.fail(f"shared memory of this test was not removed: {'; '.join(kept)}")
