"""When a recovery begins, and when it does not: holders that are slow at each point, that die, and that raise."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

import pytest
from helpers.holders import PATIENCE, holds, opened
from helpers.layers import assert_sound
from helpers.processes import LIMIT, Talk

from asgi_ipc import IPCChannelLayer, SegmentBusy
from asgi_ipc.locking import contention
from asgi_ipc.locking.contention import SUSPICION
from asgi_ipc.locking.recovery import SILENCE
from asgi_ipc.shm.layout import AT_EPOCH, AT_SEQ, AT_STARVING, AT_STARVING_UNTIL

NONE = {"death": 0, "exception": 0, "silence": 0, "semaphore": 0}


def mutex_of(layer: IPCChannelLayer) -> Any:
    """Return the mutex of a layer's message store."""
    return layer.message_store.sections.bound[0]


def pauses(talk: Talk, prefix: str, point: str, how: str) -> None:
    """
    A child: send one message, and pause, once, at a point of the protocol.

    ``point`` is "before" or "behind" the "try" or the "post". ``how`` is "sleep", "stop" (until SIGCONT), "kill" or
    "raise".
    """
    layer = opened(prefix, patience=LIMIT)
    layer.send("all", {"n": 1})
    mutex = mutex_of(layer)
    when, name = point.split()
    attribute = {"try": "token", "post": "post"}[name]
    call = getattr(mutex, attribute)

    def pause() -> None:
        setattr(mutex, attribute, call)
        talk.say(os.getpid())
        if how == "sleep":
            time.sleep(10 * SUSPICION)
        elif how == "raise":
            raise KeyboardInterrupt
        else:
            os.kill(os.getpid(), {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[how])

    def paused(*args: Any) -> Any:
        if when == "before":
            pause()
            return call(*args)
        result = call(*args)
        pause()
        return result

    setattr(mutex, attribute, paused)
    try:
        layer.send("all", {"n": 2})
    except KeyboardInterrupt:
        layer.send("all", {"n": 2})
    talk.say("sent")
    talk.hear()


POINTS = ["before try", "behind try", "before post", "behind post"]


@pytest.mark.parametrize("how", ["sleep", "stop"])
@pytest.mark.parametrize("point", POINTS)
def test_a_live_process_that_does_not_run_is_not_recovered_from(prefix, layer, start, point, how):
    """It has the token, or is about to: before its slot says that it is inside, and after that."""
    layer.send("all", {"n": 0})
    child = start(pauses, prefix, point, how)
    pid = child.hear()
    if how == "stop":
        timer = threading.Timer(10 * SUSPICION, os.kill, [pid, signal.SIGCONT])
        timer.start()
    layer.send("all", {"n": 3})
    assert child.hear() == "sent"
    assert layer.message_store.recoveries() == NONE
    assert sorted(layer.receive(["all"])[1]["n"] for _ in range(4)) == [0, 1, 2, 3]
    child.say("end")
    child.end()
    assert_sound(layer)


@pytest.mark.parametrize("point", POINTS)
def test_a_recovery_begins_soon_after_a_death_and_reports_it(prefix, layer, start, caplog, point):
    """A process that is killed before it has the token, or after it has given it back, has lost nothing."""
    caplog.set_level(logging.INFO, "asgi_ipc")
    child = start(pauses, prefix, point, "kill")
    child.hear()
    child.process.wait(LIMIT)
    layer.send("all", {"n": 3})
    lost = point in ("behind try", "before post")
    assert layer.message_store.recoveries() == {**NONE, "death": int(lost)}
    assert [record.levelname for record in caplog.records] == ["INFO"] * lost
    assert ("recovered after a process ended inside the critical section" in caplog.text) is lost
    assert_sound(layer)


@pytest.mark.parametrize("point", POINTS)
def test_a_recovery_after_an_exception_is_reported_as_such(prefix, layer, start, point):
    child = start(pauses, prefix, point, "raise")
    child.hear()
    assert child.hear() == "sent"
    layer.send("all", {"n": 3})
    lost = point in ("behind try", "before post")
    assert layer.message_store.recoveries() == {**NONE, "exception": int(lost)}
    child.say("end")
    child.end()
    assert_sound(layer)


def test_an_exception_inside_is_reported_as_such(layer):
    def section():
        raise KeyError

    with pytest.raises(KeyError):
        layer.message_store.sections.exclusively(section)
    assert layer.message_store.recoveries() == {**NONE, "exception": 1}
    assert layer.group_store.recoveries() == NONE


def test_a_removed_semaphore_is_replaced_and_reported(prefix, layer, start, make_layer):
    """A process that attaches later does not find it; no process has ended."""
    layer.send("all", {"n": 1})
    mutex = mutex_of(layer)
    mutex.segment.semaphores.unlink(mutex.words[AT_EPOCH])
    child = start(sends, prefix)
    assert child.hear() == {**NONE, "semaphore": 1}
    child.end()
    layer.send("all", {"n": 3})
    assert sorted(layer.receive(["all"])[1]["n"] for _ in range(3)) == [1, 2, 3]


def sends(talk: Talk, prefix: str) -> None:
    """A child: send one message, and report the recoveries."""
    layer = opened(prefix)
    layer.send("all", {"n": 2})
    talk.say(layer.message_store.recoveries())


def test_an_intent_is_waited_for_only_for_some_time(prefix, layer, start, caplog, monkeypatch):
    """A process stopped with the token, but not inside, does not block the others for long, and loses nothing."""
    monkeypatch.setattr(contention, "INTENT_BOUND", 0.1)
    child = start(pauses, prefix, "behind try", "stop")
    pid = child.hear()
    layer.send("all", {"n": 3})
    assert layer.message_store.recoveries() == {**NONE, "silence": 1}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "recovered although no process has ended" in record.getMessage()
    os.kill(pid, signal.SIGCONT)
    assert child.hear() == "sent"  # the token that it had is worth nothing: it has taken another one
    assert sorted(layer.receive(["all"])[1]["n"] for _ in range(3)) == [1, 2, 3]
    child.say("end")
    child.end()
    assert_sound(layer)


def test_progress_ends_a_suspicion(layer, monkeypatch):
    """Another process has taken the token and given it back since: then it was not lost."""
    mutex = mutex_of(layer)
    layer.send("all", {})
    contender = mutex.contender()
    mutex.advance(contender)
    contender.silence = 1.0
    mutex.words[AT_SEQ] += 1
    mutex.advance(contender)
    assert contender.silence == 0.0
    assert layer.message_store.recoveries() == NONE


@pytest.mark.parametrize("stale", ["seq", "epoch"])
def test_a_recovery_does_not_begin_if_anything_has_happened_since_it_was_decided(layer, stale):
    mutex = mutex_of(layer)
    layer.send("all", {})
    epoch, seq = mutex.words[AT_EPOCH], mutex.words[AT_SEQ]
    with mutex.lock:
        mutex.recovery.run(epoch - 2 * (stale == "epoch"), seq - (stale == "seq"), SILENCE)
    assert mutex.words[AT_EPOCH] == epoch
    assert layer.message_store.recoveries() == NONE


def test_time_in_which_the_waiter_did_not_run_is_not_the_holders_silence(prefix, make_layer, start):
    """The waiter is stopped for longer than its patience, with the holder: as ``docker pause`` does."""
    layer = make_layer()
    waiter = start(waits_for_the_mutex, prefix)
    waiter.hear()
    holder = start(holds, prefix, "message_store")
    holder.hear()
    waiter.say("go")
    time.sleep(5 * SUSPICION)
    for child in (holder, waiter):
        child.kill(signal.SIGSTOP)
    time.sleep(2 * PATIENCE)
    waiter.kill(signal.SIGCONT)
    time.sleep(5 * SUSPICION)  # it runs again, a little before the holder
    holder.kill(signal.SIGCONT)
    holder.say("leave")
    assert waiter.hear() == "sent"
    assert layer.message_store.recoveries() == NONE
    waiter.end()
    assert holder.hear() == "out"
    holder.say("end")
    holder.end()


def waits_for_the_mutex(talk: Talk, prefix: str) -> None:
    """A child: send a message, which has to wait."""
    layer = opened(prefix, patience=PATIENCE)
    talk.say("ready")
    talk.hear()
    try:
        layer.send("all", {})
    except SegmentBusy as error:
        talk.say(str(error))
    else:
        talk.say("sent")


def test_a_thread_that_waits_for_the_mutex_does_not_keep_the_lock_of_the_process(prefix, layer, start):
    """Another thread of the process would otherwise wait for the stopped process without knowing it."""
    holder = start(holds, prefix, "message_store")
    holder.hear()
    thread = threading.Thread(target=layer.send, args=("all", {}))
    thread.start()
    lock = mutex_of(layer).lock
    for _ in range(20):
        assert lock.acquire(timeout=LIMIT)
        lock.release()
        time.sleep(0.001)
    assert thread.is_alive()
    holder.say("leave")
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert holder.hear() == "out"
    holder.say("end")
    holder.end()


# -- whose turn it is --


def test_only_the_wait_that_began_first_goes_on_when_processes_starve(layer):
    mutex = mutex_of(layer)
    layer.send("all", {})
    early, late = mutex.contender(), mutex.contender()
    for each, seconds in ((early, 3), (late, 2)):
        each._queue.began -= seconds * 10**9
        mutex.advance(each)
    assert (early.gives_way, late.gives_way) == (False, True)
    mutex.advance(early)
    assert not early.gives_way
    new = mutex.contender()
    mutex.advance(new)
    assert new.gives_way
    early.finish()
    for each, gives_way in ((late, False), (new, True)):
        mutex.advance(each)
        assert each.gives_way is gives_way


def test_the_wait_of_a_process_that_has_died_keeps_nobody_out(layer):
    mutex = mutex_of(layer)
    layer.send("all", {})
    dead, new = mutex.contender(), mutex.contender()
    dead._queue.began -= 10**9
    mutex.advance(dead)
    mutex.advance(new)
    assert new.gives_way
    mutex.words[AT_STARVING_UNTIL] -= 10**9  # it has not asked again
    mutex.advance(new)
    assert not new.gives_way
    assert mutex.words[AT_STARVING] == 0


@pytest.mark.parametrize("damage", [1, 2**63, 2**64 - 1])
def test_damaged_words_of_the_queue_keep_nobody_out(layer, damage):
    mutex = mutex_of(layer)
    mutex.words[AT_STARVING] = mutex.words[AT_STARVING_UNTIL] = damage
    layer.send("all", {"n": 1})
    mutex.turns.end()
    contender = mutex.contender()
    mutex.advance(contender)
    assert not contender.gives_way
    assert layer.receive(["all"]) == ("all", {"n": 1})
