"""The locks between threads, where a library replaces ``threading.RLock`` (``tests/greenlets`` has real ones)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers.processes import LIMIT, reap

from asgi_ipc import IPCChannelLayer
from asgi_ipc.locking.threads import ThreadLock

REFUSED = "gevent or eventlet has replaced the threads of this process after asgi_ipc was used in it"


def replace_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the lock of ``threading``, and return the type of its locks now."""
    monkeypatch.setattr(threading, "RLock", threading._RLock)  # type: ignore[attr-defined]
    return type(threading.RLock())


def test_a_lock_that_was_not_used_before_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = ThreadLock()
    kind = replace_threads(monkeypatch)
    assert type(lock.checked()) is kind
    assert lock.checked() is lock.choose() is lock.lock


def test_a_lock_that_was_used_before_stays_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = ThreadLock()
    used = lock.checked()
    replace_threads(monkeypatch)
    assert lock.choose() is used
    for _ in range(2):
        with pytest.raises(RuntimeError, match=REFUSED):
            lock.checked()
    lock.forget()
    assert lock.checked() is not used


def test_threads_that_use_a_lock_first_at_the_same_time_choose_the_same() -> None:
    for _ in range(20):
        lock, chosen = ThreadLock(), []
        barrier = threading.Barrier(4)

        def choose(lock: ThreadLock = lock, chosen: list[Any] = chosen, barrier: Any = barrier) -> None:
            barrier.wait(LIMIT)
            chosen.append(lock.checked())

        threads = [threading.Thread(target=choose) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert chosen == [lock.lock] * 4


CALLS: dict[str, Callable[[IPCChannelLayer], object]] = {
    "send": lambda layer: layer.send("a", {}),
    "receive": lambda layer: layer.receive(["a"]),
    "receive, blocking": lambda layer: layer.receive(["a"], block=True),
    "send_group": lambda layer: layer.send_group("g", {}),
    "group_add": lambda layer: layer.group_add("g", "a"),
    "flush": lambda layer: layer.flush(),
    "unlink": lambda layer: layer.unlink(),
    "a new layer": lambda layer: IPCChannelLayer(layer.prefix),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_is_refused_if_threads_were_replaced_after_the_first_use(
    layer: IPCChannelLayer, monkeypatch: pytest.MonkeyPatch, call: Callable[[IPCChannelLayer], object]
) -> None:
    layer.send("a", {})
    layer.group_add("g", "a")
    with monkeypatch.context() as patched:
        replace_threads(patched)
        for store in (layer.message_store, layer.group_store):
            store.sections.check_due = 0  # as it is once a second
        for _ in range(2):
            with pytest.raises(RuntimeError, match=REFUSED):
                call(layer)
    assert layer.receive(["a"]) == ("a", {})


def test_a_layer_can_be_closed_after_threads_were_replaced(
    layer: IPCChannelLayer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer.send("a", {})
    layer.unlink()
    replace_threads(monkeypatch)
    layer.close()
    assert [name for name in os.listdir("/dev/shm") if name.startswith(prefix)] == []


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_forked_child_uses_the_locks_of_the_replaced_threads(
    layer: IPCChannelLayer, monkeypatch: pytest.MonkeyPatch, call: Callable[[IPCChannelLayer], object]
) -> None:
    """The parent has used the layer just before, so the check that is due once a second is not due."""
    layer.send("a", {})
    layer.group_add("g", "a")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kind = replace_threads(monkeypatch)
            call(layer)
            layer.group_add("g", "b")
            layer.send("b", {})
            stores = (layer.message_store, layer.group_store)
            code = 0 if all(type(store.sections.bound[0].lock) is kind for store in stores) else 2
        finally:
            os._exit(code)
    assert reap(child) == 0
    layer.send("a", {})
