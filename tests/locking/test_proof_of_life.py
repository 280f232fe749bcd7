"""
A process that has lost its proof of life notices, and takes it again.

The kernel drops the byte locks of a process when anything in it closes a descriptor of the file.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import logging
import os
import threading
from collections.abc import Callable

import pytest
from helpers.holders import opened, segment_of
from helpers.layers import assert_sound, drain
from helpers.processes import Children, Talk, reap
from helpers.segments import needs_files, path_of
from helpers.waiting import fifos, until, until_async, waiters

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer
from asgi_ipc.locking.liveness import Liveness, Owner
from asgi_ipc.stores.base import LONG_AGO

pytestmark = needs_files


def liveness_of(layer: IPCChannelLayer, store: str = "message_store") -> Liveness:
    found: Liveness = getattr(layer, store).sections.opened().liveness
    return found


def is_proven(layer: IPCChannelLayer) -> bool | None:
    """True if the kernel proves that this process uses the layer's messages."""
    return segment_of(layer).locks.is_ours(1 + liveness_of(layer).slot)


def owner(layer: AsyncIPCChannelLayer, channel: str) -> int:
    """Return the process that owns the inbox of a channel, without a look after the proof of life."""
    sections = layer._layer.message_store.sections
    found: Owner = sections.exclusively(sections.parts.ownership.owner_of, channel)
    return found.process


def open_and_close(path: str) -> None:
    """Do what a stranger in this process may do: look into the file."""
    with open(path, "rb"):
        pass


def let_look(layer: IPCChannelLayer) -> None:
    """Have the next operation look after the proof of life, which it otherwise does once a second."""
    layer.message_store.sections.check_due = layer.group_store.sections.check_due = LONG_AGO


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# -- taking it again --


def test_the_next_look_takes_the_proof_of_life_again(
    prefix: str, layer: IPCChannelLayer, start: Children, caplog: pytest.LogCaptureFixture
) -> None:
    layer.receive(["p!"])
    layer.group_add("g", "p!a")
    slot, me = liveness_of(layer).slot, liveness_of(layer).me()
    for _ in range(2):
        caplog.clear()
        open_and_close(path_of(prefix))
        assert not is_proven(layer)
        let_look(layer)
        layer.send("a", {})
        assert is_proven(layer)
        assert (liveness_of(layer).slot, liveness_of(layer).me()) == (slot, me)
        let_look(layer)
        layer.send("a", {})
        (warning,) = warnings_of(caplog)
        for part in (f"{prefix}-messages: ", "lost its proof of life", "opened the file", "has the proof again"):
            assert part in warning
    assert start(sees, prefix).hear() == ["p!a"]
    assert_sound(layer)


def sees(talk: Talk, prefix: str) -> None:
    """A child: report the members of a group. Those of dead processes leave it."""
    with opened(prefix) as layer:
        talk.say(layer.group_channels("g"))


def test_what_others_have_dropped_is_owned_again(prefix: str, layer: IPCChannelLayer, start: Children) -> None:
    """While the proof is lost, another process takes this one for dead."""
    layer.receive(["p!"])
    layer.group_add("g", "p!a")
    open_and_close(path_of(prefix))
    observer = start(sends_and_sees, prefix)
    assert observer.hear() == []
    let_look(layer)
    assert layer.receive(["p!"]) == ("p!a", {"n": 1})
    layer.group_add("g", "p!a")
    observer.say()
    assert observer.hear() == ["p!a"]
    assert layer.message_store.owner_of("p!a").process == liveness_of(layer).me()


def sends_and_sees(talk: Talk, prefix: str) -> None:
    """A child: send to an inbox whose owner seems dead, and report the members of a group, twice."""
    with opened(prefix) as layer:
        layer.send("p!a", {"n": 1})
        talk.say(layer.group_channels("g"))
        talk.hear()
        talk.say(layer.group_channels("g"))


def test_a_look_takes_no_notice_of_other_files(layer: IPCChannelLayer, caplog: pytest.LogCaptureFixture) -> None:
    for store in ("message_store", "group_store"):
        let_look(layer)
        layer.group_add("g", "a")
        layer.send("a", {})
        open_and_close(os.devnull)
        assert getattr(layer, store).sections.opened().segment.locks.is_ours(1 + liveness_of(layer, store).slot)
    assert warnings_of(caplog) == []


def test_without_locks_of_descriptions_it_is_taken_again_unnoticed(
    prefix: str, layer: IPCChannelLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An old kernel cannot say whether this process has a lock."""
    with monkeypatch.context() as old:
        old.delattr(fcntl, "F_OFD_GETLK")
        assert is_proven(layer) is None
        open_and_close(path_of(prefix))
        let_look(layer)
        layer.send("a", {})
    assert is_proven(layer)
    assert warnings_of(caplog) == []


# -- waiting receivers --


def test_a_thread_that_waits_takes_it_again(prefix: str, layer: IPCChannelLayer) -> None:
    thread = threading.Thread(target=layer.receive, args=(["a"], True))
    thread.start()
    try:
        until(lambda: waiters(layer, "a") == 1)
        open_and_close(path_of(prefix))
        until(lambda: bool(is_proven(layer)))
    finally:
        layer.send("a", {})
        thread.join()


def sweeps(talk: Talk, prefix: str) -> None:
    """A child: sweep until no FIFO is registered."""
    with opened(prefix) as layer:
        until(lambda: layer.send("b", {}) or (layer.receive(["b"])[0] == "b" and fifos(layer) == 0))
        talk.say("swept")


def test_a_receiver_does_not_use_a_record_that_others_have_freed(
    prefix: str, layer: IPCChannelLayer, start: Children
) -> None:
    """They may take this process for dead before it looks, and free the record of its FIFO."""
    store = layer.message_store
    fifo = store.wakeups.new_fifo()
    store.wakeups.pop_or_register(["a"], fifo)
    store.sections.check_due = store.sections.clock() + 10**12  # it does not look
    open_and_close(path_of(prefix))
    assert start(sweeps, prefix).hear() == "swept"
    assert not store.wakeups.take_notified(fifo, [])
    store.wakeups.pop_or_register(["a"], fifo)
    assert fifos(layer) == 1
    assert_sound(layer)
    store.wakeups.dismiss(fifo)


def test_an_event_loop_that_waits_takes_it_again(prefix: str, make_async: Callable[..., AsyncIPCChannelLayer]) -> None:
    async def main() -> None:
        layer = make_async()
        task = asyncio.ensure_future(layer.receive("a"))
        await until_async(lambda: bool(waiters(layer, "a")))
        open_and_close(path_of(prefix))
        await until_async(lambda: bool(is_proven(layer._layer)))
        await layer.send("a", {"n": 1})
        assert await task == {"n": 1}

    asyncio.run(main())


# -- another process got the slot --


def uses(talk: Talk, prefix: str, count: int) -> None:
    """A child: acquire a slot, report it, and then send and receive ``count`` messages."""
    with opened(prefix) as layer:
        talk.say(liveness_of(layer).slot)
        for _ in iter(talk.hear, None):
            for number in range(count):
                layer.send("c", {"n": number})
                assert layer.receive(["c"])[0] == "c"
            talk.say("done")


def test_a_process_whose_slot_was_taken_acquires_another(
    prefix: str, layer: IPCChannelLayer, start: Children, caplog: pytest.LogCaptureFixture
) -> None:
    layer.receive(["p!"])
    slot = liveness_of(layer).slot
    for kind in ("messages", "groups"):
        open_and_close(path_of(prefix, kind))
    other = start(uses, prefix, 3000)
    assert other.hear() == slot
    let_look(layer)
    layer.receive(["p!"])
    layer.group_add("g", "p!a")
    assert liveness_of(layer).slot not in (slot, -1)
    assert is_proven(layer)
    assert len(warnings_of(caplog)) == 2
    assert all("another process got its slot" in warning for warning in warnings_of(caplog))
    other.say("go")
    for number in range(3000):  # both in one slot would not exclude each other for long
        layer.send("d", {"n": number})
        assert layer.receive(["d"]) == ("d", {"n": number})
    assert other.hear() == "done"
    other.say(None)
    other.end()
    assert is_proven(layer)
    assert start(sees, prefix).hear() == ["p!a"]
    assert layer.message_store.owner_of("p!a").process == liveness_of(layer).me()
    assert_sound(layer)


def test_it_acquires_another_slot_even_if_that_process_is_gone(
    prefix: str, layer: IPCChannelLayer, start: Children
) -> None:
    """Others may have seen the process that had the slot die: its number must not come to life again."""
    slot, me = liveness_of(layer).slot, liveness_of(layer).me()
    open_and_close(path_of(prefix))
    other = start(uses, prefix, 0)
    assert other.hear() == slot
    other.die()
    assert liveness_of(layer).me() == me  # not the number of the other process
    let_look(layer)
    layer.send("a", {})
    assert liveness_of(layer).slot not in (slot, -1)
    assert liveness_of(layer).me() != me
    assert is_proven(layer)
    assert not segment_of(layer).locks.is_ours(1 + slot)


def test_the_same_if_that_process_came_and_went_during_the_look(
    prefix: str, layer: IPCChannelLayer, start: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, locks = liveness_of(layer).slot, segment_of(layer).locks
    lock = locks.lock

    def lock_later(byte: int) -> bool:
        monkeypatch.undo()
        other = start(uses, prefix, 0)
        assert other.hear() == slot
        other.die()
        return lock(byte)

    open_and_close(path_of(prefix))
    monkeypatch.setattr(locks, "lock", lock_later)
    let_look(layer)
    layer.send("a", {})
    assert liveness_of(layer).slot not in (slot, -1)
    assert not locks.is_ours(1 + slot)


def test_a_receiver_that_waits_keeps_its_memberships(
    prefix: str, make_async: Callable[..., AsyncIPCChannelLayer], start: Children
) -> None:
    """It wakes up and owns its inbox again, before another process looks."""

    async def main() -> None:
        layer = make_async()
        name = await layer.new_channel()
        await layer.group_add("g", name)
        task = asyncio.ensure_future(layer.receive(name))
        await until_async(lambda: bool(waiters(layer, name)))
        me = liveness_of(layer._layer).me()
        open_and_close(path_of(prefix))
        other = start(uses, prefix, 0)
        assert other.hear() == 0
        await until_async(lambda: owner(layer, name) not in (me, 0))
        observer = start(sees, prefix)
        assert observer.hear() == [name]
        await layer.send(name, {"n": 1})
        assert await task == {"n": 1}

    asyncio.run(main())


# -- forks that Python does not know of --


@pytest.fixture
def fork() -> Callable[[Callable[[], None]], int | None]:
    """Return a function that forks as uWSGI does, without Python's hooks, and returns the child's exit code."""
    library = ctypes.PyDLL(None)

    def forked(work: Callable[[], None]) -> int | None:
        pid = library.fork()
        if pid:
            return reap(pid)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)

    return forked


def test_a_child_forked_without_hooks_has_a_slot_of_its_own(
    layer: IPCChannelLayer, fork: Callable[[Callable[[], None]], int | None]
) -> None:
    slot, pid = liveness_of(layer).slot, os.getpid()

    def work() -> None:
        messages: list[str] = []
        logging.getLogger("asgi_ipc").addFilter(lambda record: bool(messages.append(record.getMessage())))
        layer.send("a", {"pid": os.getpid()})
        assert os.getpid() != pid
        assert liveness_of(layer).slot not in (slot, -1)
        assert is_proven(layer)
        assert "py-call-osafterfork" in messages[0]

    assert fork(work) == 0
    assert liveness_of(layer).slot == slot
    assert is_proven(layer)
    assert len(drain(layer, "a")) == 1
    assert_sound(layer)
