"""Opening and closing a segment while a signal handler, a finaliser or another thread is in the middle of that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.shm.segment import Segment
from asgi_ipc.stores.attachment import Attachment

MakeLayer = Callable[[], IPCChannelLayer]


def segment_of(layer: IPCChannelLayer) -> Segment:
    attachment = layer.message_store.sections.attachment
    assert attachment is not None
    return attachment.segment


@contextmanager
def held_by_another_thread() -> Iterator[None]:
    """Another thread is opening or closing a segment."""
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with Attachment._lock.checked():
            begun.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def held_by_this_thread() -> Iterator[None]:
    """A signal handler or finaliser has interrupted this thread, which is opening or closing a segment."""
    with Attachment._lock.checked():
        yield


def test_a_handler_cannot_create_a_layer_while_its_thread_opens_one(prefix: str) -> None:
    with held_by_this_thread(), pytest.raises(RuntimeError, match="must not create, close or unlink a layer"):
        IPCChannelLayer(prefix)


def test_a_handler_cannot_unlink_a_layer_while_its_thread_opens_one(make_layer: MakeLayer) -> None:
    layer = make_layer()
    with held_by_this_thread(), pytest.raises(RuntimeError, match="must not create, close or unlink a layer"):
        layer.unlink()
    layer.send("a", {})
    assert layer.receive(["a"])[0] == "a"


@pytest.mark.parametrize("held", [held_by_this_thread, held_by_another_thread])
def test_a_layer_that_is_closed_meanwhile_is_closed_by_the_next_use(
    make_layer: MakeLayer, held: Callable[[], AbstractContextManager[None]]
) -> None:
    layer = make_layer()
    segment = segment_of(layer)
    with held():
        layer.close()
        assert segment.fd >= 0
    make_layer()
    assert segment.fd < 0
