"""The complete conformance suite of the ASGI draft (asgiref 1.1.2). Later releases do not contain it."""

from __future__ import annotations

import os
import secrets
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer

conformance: Any = pytest.importorskip(
    "asgiref.conformance", reason="needs asgiref 1.1.2, which contains the suite"
)


class TestConformance(conformance.ConformanceTestCase):  # type: ignore[misc]
    """The suite, with the sizes and times that it expects. It flushes the layer before each test."""

    expiry_delay = 1.1
    capacity_limit = 5

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        prefix = f"conformance{os.getpid()}-{secrets.token_hex(4)}"
        cls.channel_layer = IPCChannelLayer(prefix, expiry=1, group_expiry=2, capacity=5)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.channel_layer.unlink()
        cls.channel_layer.close()
        super().tearDownClass()
