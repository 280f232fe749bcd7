"""Tests of ``asgi_ipc.cli`` and ``asgi_ipc.demo``."""
