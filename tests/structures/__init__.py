"""Tests of ``asgi_ipc.structures``: the heap that divides a segment into blocks."""
