"""The fixture ``ipc_channel_layers``: Channels' layers, with separate shared memory for each test."""

from __future__ import annotations

import os
from typing import Any

import pytest

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.test.utils import override_settings

from . import settings

OURS = "asgi_ipc.AsyncIPCChannelLayer"


@pytest.fixture
def other_settings(request: pytest.FixtureRequest) -> Any:
    """Settings with the ``CHANNEL_LAYERS`` that a test is parametrized with."""
    with override_settings(CHANNEL_LAYERS=request.param):
        yield request.param


with_settings = pytest.mark.usefixtures("other_settings", "ipc_channel_layers")


@pytest.mark.parametrize("turn", range(2))
def test_the_sites_layer_uses_the_prefix_of_the_test(
    ipc_channel_layers: Any, ipc_prefix: str, ipc_layer: IPCChannelLayer, turn: int
) -> None:
    layer = get_channel_layer()
    assert ipc_channel_layers is channel_layers
    assert ipc_channel_layers["default"] is layer
    assert isinstance(layer, AsyncIPCChannelLayer)
    assert ipc_layer.receive(["a"]) == (None, None)
    async_to_sync(layer.send)("a", {"turn": turn})
    async_to_sync(layer.send)("b", {"turn": turn})
    assert ipc_layer.receive(["a"]) == ("a", {"turn": turn})


def test_the_layer_of_the_settings_was_not_used() -> None:
    """The tests of this module did not use that layer, and the settings are restored."""
    from django.conf import settings as current

    assert current.CHANNEL_LAYERS == settings.CHANNEL_LAYERS
    assert not [name for name in os.listdir("/dev/shm") if settings.PREFIX in name]


@pytest.mark.parametrize(
    "other_settings",
    [{"default": {"BACKEND": OURS, "CONFIG": {"prefix": "live", "capacity": 5, "expiry": 3}}}],
    indirect=True,
)
@with_settings
def test_options_of_the_settings_are_kept() -> None:
    layer = get_channel_layer()
    assert (layer.capacity, layer.expiry) == (5, 3)


@pytest.mark.parametrize(
    "other_settings",
    [{"default": {"BACKEND": OURS, "CONFIG": {"prefix": "live"}, "TEST_CONFIG": {"prefix": "test", "capacity": 5}}}],
    indirect=True,
)
@with_settings
def test_test_config_takes_precedence_over_config(ipc_prefix: str) -> None:
    assert get_channel_layer().capacity == channel_layers.make_test_backend("default").capacity == 5


@pytest.mark.parametrize(
    "other_settings",
    [
        {
            "default": {"BACKEND": OURS, "CONFIG": {"prefix": "live"}},
            "same": {"BACKEND": OURS, "CONFIG": {"prefix": "live"}},
            "other": {"BACKEND": OURS, "CONFIG": {"prefix": "other"}},
            "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        }
    ],
    indirect=True,
)
@with_settings
def test_aliases_share_a_prefix_only_if_the_settings_do(ipc_layer: IPCChannelLayer) -> None:
    for alias in ("same", "other", "memory"):
        async_to_sync(get_channel_layer(alias).send)("a", {"from": alias})
    assert async_to_sync(get_channel_layer().receive)("a") == {"from": "same"}
    assert async_to_sync(get_channel_layer("other").receive)("a") == {"from": "other"}
    assert isinstance(get_channel_layer("memory"), InMemoryChannelLayer)
    assert ipc_layer.receive(["a"]) == (None, None)
    async_to_sync(get_channel_layer("other").send)("a", {"left": "behind"})  # the fixture removes it


def test_the_tests_above_leave_no_object() -> None:
    assert not [name for name in os.listdir("/dev/shm") if f"pytest-{os.getpid()}-" in name]


@pytest.mark.parametrize(
    "other_settings",
    [{}, {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}, {"default": {"BACKEND": OURS}}],
    indirect=True,
)
@with_settings
def test_default_is_always_the_ipc_layer(ipc_layer: IPCChannelLayer) -> None:
    layer = get_channel_layer()
    assert isinstance(layer, AsyncIPCChannelLayer)
    ipc_layer.send("a", {"n": 1})
    assert async_to_sync(layer.receive)("a") == {"n": 1}


class TestOptions:
    """A test class that overrides the fixture ``ipc_options``."""

    @pytest.fixture
    def ipc_options(self) -> Any:
        return {"capacity": 2}

    def test_options_of_the_fixture_take_precedence(self, ipc_channel_layers: Any) -> None:
        assert get_channel_layer().capacity == 2
