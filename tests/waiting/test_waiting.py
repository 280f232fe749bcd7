"""
A blocking ``receive`` waits for a message, whatever happens to the segment, the layer or the process.

Waiters also poll once a second. Most tests switch the polls off, so that only a notification of its wakeup
FIFO wakes a receiver.

"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest
from helpers.processes import LIMIT, reap
from helpers.segments import path_of, raise_in_critical_sections
from helpers.sleepers import Sleeper, sleeps
from helpers.waiting import OPTIONS, assert_sound, fifos, files_of, never_poll, until, waiters

from asgi_ipc import IPCChannelLayer, SegmentGone
from asgi_ipc.shm.layout import AT_WAIT_GENERATION
from asgi_ipc.shm.wakeup_fifo import WakeupFifo
from asgi_ipc.stores.messages.wakeups import Wakeups

#: A timeout that is longer than any test.
LONG = {"block_timeout": 3600}


@pytest.fixture
def no_polling(monkeypatch):
    never_poll(monkeypatch.setattr)


def until_waiting(layer, channel, count):
    """Wait until ``count`` waiters are registered for a channel. The segment may be replaced meanwhile."""

    def are_registered():
        layer.message_store.sections.check_name()
        try:
            return waiters(layer, channel) == count
        except SegmentGone:
            return False

    until(are_registered)


# -- what receive returns ------------------------------------------------------------------------------------


def test_it_returns_none_when_the_timeout_is_over(make_layer):
    layer = make_layer(block_timeout=0.2)
    began = time.monotonic()
    assert layer.receive(["a", "b", "p!"], block=True) == (None, None)
    assert time.monotonic() - began >= 0.2
    assert waiters(layer, "a") == waiters(layer, "p!") == 0
    assert layer.receive(["a"]) == (None, None)
    assert_sound(layer)


def test_without_channels_it_returns_at_once(make_layer):
    layer = make_layer(**LONG)
    assert layer.receive([], block=True) == layer.receive(iter(()), block=True) == (None, None)


def test_a_message_that_is_there_is_taken_without_sleeping(make_layer, prefix):
    layer = make_layer(**LONG)
    layer.send("a", {"n": 1})
    assert layer.receive(["b", "a"], block=True) == ("a", {"n": 1})
    assert files_of(prefix) == []


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("wanted", [["a", "b", "p!"], ("p!", "b", "a"), {"a", "b", "p!"}, {"a": 1, "b": 2, "p!": 3}])
@pytest.mark.parametrize("channel", ["a", "b", "p!x"])
def test_a_message_in_any_of_several_channels_wakes_the_receiver(make_layer, wanted, channel):
    layer = make_layer(**LONG)
    sleeper = Sleeper(layer, wanted)
    until_waiting(layer, "b", 1)
    until_waiting(layer, "p!", 1)
    make_layer().send(channel, {"n": 1})
    assert sleeper.result() == (channel, {"n": 1})
    assert waiters(layer, "a") == waiters(layer, "b") == waiters(layer, "p!") == 0
    assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
def test_any_iterable_of_names_is_accepted(make_layer):
    layer = make_layer(**LONG)
    sleeper = Sleeper(layer, (name for name in ("a", "b")))
    until_waiting(layer, "b", 1)
    layer.send("b", {})
    assert sleeper.result() == ("b", {})


@pytest.mark.usefixtures("no_polling")
def test_a_message_that_arrives_just_before_the_waiter_is_registered_is_taken(make_layer, monkeypatch):
    layer = make_layer(**LONG)
    take_fifo = Wakeups.take_fifo

    def late(wakeups):
        layer.send("a", {"n": 1})
        return take_fifo(wakeups)

    monkeypatch.setattr(Wakeups, "take_fifo", late)
    assert Sleeper(layer, ["a"]).result() == ("a", {"n": 1})


@pytest.mark.usefixtures("no_polling")
def test_a_group_send_wakes_every_member(make_layer):
    layer = make_layer(**LONG)
    names = [f"member-{number}" for number in range(20)]
    for name in [*names, "p!x"]:
        layer.group_add("g", name)
    sleepers = [Sleeper(layer, [name]) for name in [*names, "p!"]]
    for name in [*names, "p!"]:
        until_waiting(layer, name, 1)
    layer.send_group("g", {"n": 1})
    assert [sleeper.result() for sleeper in sleepers] == [(name, {"n": 1}) for name in [*names, "p!x"]]


# -- threads -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_polling")
def test_many_threads_on_one_object_get_each_message_once_and_in_order(make_layer):
    layer, other = make_layer(capacity=10000, **LONG), make_layer(capacity=10000)
    count, threads = 400, 8
    received = [[] for _ in range(threads)]

    def receive(mine):
        while True:
            _, message = layer.receive(["a", "p!", "b"], block=True)
            if message["n"] < 0:
                return
            mine.append(message["n"])

    started = [threading.Thread(target=receive, args=(mine,), daemon=True) for mine in received]
    for thread in started:
        thread.start()
    for number in range(count):
        other.send("p!x", {"n": number})
        if number % 50 == 0:  # the next message is sent while all threads sleep
            until_waiting(layer, "p!", threads)
    until(lambda: sum(map(len, received)) == count)
    for _ in range(threads):
        other.send("b", {"n": -1})
    for thread in started:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert sorted(number for mine in received for number in mine) == list(range(count))
    for mine in received:
        assert mine == sorted(mine)
    assert waiters(layer, "a") == waiters(layer, "b") == waiters(layer, "p!") == 0
    assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
def test_the_fifo_of_a_finished_receive_is_used_again(make_layer, prefix):
    layer = make_layer(**LONG)
    for number in range(10):
        sleeper = Sleeper(layer, ["a"])
        until_waiting(layer, "a", 1)
        layer.send("a", {"n": number})
        assert sleeper.result() == ("a", {"n": number})
    assert len(files_of(prefix)) == 1
    layer.close()
    assert files_of(prefix) == []


# -- signals -------------------------------------------------------------------------------------------------


def leaves_on_sigterm(talk, prefix):
    """A child like a worker of Channels 1: a signal handler ends it while it waits for messages."""
    never_poll()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    layer = IPCChannelLayer(prefix, **LONG, **OPTIONS)
    talk.say("ready")
    layer.receive(["a", "p!"], block=True)


def test_a_handler_that_exits_ends_the_wait_and_leaves_no_waiter(layer, prefix, start):
    child = start(leaves_on_sigterm, prefix)
    child.hear()
    until_waiting(layer, "p!", 1)
    os.kill(child.pid, signal.SIGTERM)
    assert child.process.wait(LIMIT) == 7, child.errors()
    assert waiters(layer, "a") == waiters(layer, "p!") == 0
    assert files_of(prefix) == []
    layer.send("a", {"n": 1})
    assert layer.receive(["a"]) == ("a", {"n": 1})
    assert_sound(layer)


def ends_while_a_thread_sleeps(talk, prefix):
    """A child: its main thread returns while a daemon thread is in a blocking receive."""
    layer = IPCChannelLayer(prefix, **LONG, **OPTIONS)
    Sleeper(layer, ["a"])
    talk.hear()


def test_a_process_that_ends_while_a_thread_sleeps_removes_its_fifo(layer, prefix, start):
    child = start(ends_while_a_thread_sleeps, prefix)
    until_waiting(layer, "a", 1)
    child.say()
    child.end()
    assert files_of(prefix) == []


class Enough(Exception):
    """An exception for signal handlers to raise."""


@pytest.fixture
def on_alarm():
    """Return a function that installs a handler of SIGALRM and sends the signal after 0.1 s."""

    def handle(function):
        signal.signal(signal.SIGALRM, function)
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    yield handle
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.usefixtures("no_polling")
def test_a_layer_works_after_a_handler_has_raised_in_a_receive(make_layer, on_alarm):
    layer = make_layer(block_timeout=LIMIT)

    def stop(*_):
        raise Enough

    on_alarm(stop)
    with pytest.raises(Enough):
        layer.receive(["a", "b"], block=True)
    assert waiters(layer, "a") == waiters(layer, "b") == 0
    sleeper = Sleeper(layer, ["a"])
    until_waiting(layer, "a", 1)
    layer.send("a", {"n": 1})
    assert sleeper.result() == ("a", {"n": 1})


@pytest.mark.usefixtures("no_polling")
def test_a_handler_may_send_the_message_that_is_waited_for(make_layer, on_alarm):
    layer = make_layer(block_timeout=LIMIT)
    on_alarm(lambda *_: layer.send("a", {"from": "handler"}))
    assert layer.receive(["a"], block=True) == ("a", {"from": "handler"})


@pytest.mark.usefixtures("no_polling")
def test_a_receiver_interrupted_after_its_notification_passes_it_on(make_layer, monkeypatch):
    """The signal arrives after the FIFO was notified, and before the receiver takes the message."""
    layer = make_layer(block_timeout=LIMIT)
    sleep, mine = WakeupFifo.wait, threading.current_thread()

    def interrupted(fifo, seconds):
        if threading.current_thread() is not mine:
            return sleep(fifo, seconds)
        others.append(Sleeper(layer, ["a"]))
        until_waiting(layer, "a", 2)
        make_layer().send("a", {"n": 1})
        raise Enough

    others = []
    monkeypatch.setattr(WakeupFifo, "wait", interrupted)
    with pytest.raises(Enough):
        layer.receive(["a"], block=True)
    assert others[0].result() == ("a", {"n": 1})


@pytest.mark.usefixtures("no_polling")
def test_a_receiver_notified_just_before_its_timeout_takes_the_message(make_layer, monkeypatch):
    layer = make_layer(block_timeout=0.01)

    def late(fifo, seconds):
        layer.send("a", {"n": 1})
        time.sleep(0.02)
        return False

    monkeypatch.setattr(WakeupFifo, "wait", late)
    assert layer.receive(["a"], block=True) == ("a", {"n": 1})


def outlives_sigpipe(talk, prefix):
    """A child: restore the default action of SIGPIPE, and send twice; the second waiter is dead by then."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        for number in range(2):
            talk.hear()
            layer.send("a", {"n": number})
            talk.say(number)


def test_a_sender_with_the_default_action_of_sigpipe_survives_a_dead_waiter(layer, prefix, start):
    sender, waiter = start(outlives_sigpipe, prefix), start(sleeps, prefix, ["a"], False, 2)
    until_waiting(layer, "a", 1)
    sender.say()
    assert sender.hear() == 0
    assert waiter.hear() == ["a", {"n": 0}]
    until_waiting(layer, "a", 1)
    waiter.die()
    sender.say()
    assert sender.hear() == 1
    sender.end()
    assert layer.receive(["a"]) == ("a", {"n": 1})


# -- what happens to the layer meanwhile ---------------------------------------------------------------------


@pytest.mark.usefixtures("no_polling")
def test_a_receiver_raises_when_its_layer_is_closed(make_layer, prefix):
    layer, other = make_layer(**LONG), make_layer()
    sleepers = [Sleeper(layer, ["a"]) for _ in range(3)]
    until_waiting(other, "a", 3)
    layer.close()
    for sleeper in sleepers:
        with pytest.raises(RuntimeError, match="closed"):
            sleeper.result()
    assert files_of(prefix) == []


def flush_beside_a_message(layer, make_layer):
    layer.send("idle", {})
    make_layer().flush()


def recover(layer, make_layer):
    raise_in_critical_sections(layer)


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("disturb", [flush_beside_a_message, recover])
def test_receivers_wait_on_after_a_flush_and_a_recovery(make_layer, prefix, start, disturb):
    layer = make_layer(**LONG)
    child = start(sleeps, prefix, ["a", "p!"], False)
    sleepers = [Sleeper(layer, ["b"]) for _ in range(5)]
    until_waiting(layer, "b", 5)
    until_waiting(layer, "p!", 1)
    disturb(layer, make_layer)
    until_waiting(layer, "b", 5)
    until_waiting(layer, "p!", 1)
    assert fifos(layer) == 6
    layer.send("p!x", {"n": 0})
    assert child.hear() == ["p!x", {"n": 0}]
    for number in range(5):
        layer.send("b", {"n": number})
    assert sorted(sleeper.result()[1]["n"] for sleeper in sleepers) == list(range(5))
    assert_sound(layer)


def dies_inside(talk, prefix):
    """A child that is killed in a critical section."""
    layer = IPCChannelLayer(prefix, **OPTIONS)
    layer.message_store.sections.exclusively(os.kill, os.getpid(), signal.SIGKILL)


def test_a_waiters_poll_recovers_from_a_killed_holder(layer, prefix, start):
    """No process does anything but wait."""
    child = start(sleeps, prefix, ["a"], True)
    until_waiting(layer, "a", 1)
    words = layer.message_store.sections.bound[0].words
    before = words[AT_WAIT_GENERATION]
    dead = start(dies_inside, prefix)
    assert dead.process.wait(LIMIT) == -signal.SIGKILL
    until(lambda: words[AT_WAIT_GENERATION] != before)  # without an operation of this process
    until_waiting(layer, "a", 1)
    layer.send("a", {"n": 1})
    assert child.hear() == ["a", {"n": 1}]


@pytest.mark.usefixtures("no_polling")
def test_receivers_wait_on_in_the_new_segment_after_an_unlink(make_layer, prefix, start, caplog):
    layer = make_layer(**LONG)
    child = start(sleeps, prefix, ["a"], False)
    sleeper = Sleeper(layer, ["b"])
    until_waiting(layer, "a", 1)
    until_waiting(layer, "b", 1)
    layer.unlink()
    until_waiting(layer, "a", 1)
    until_waiting(layer, "b", 1)
    layer.send("a", {"n": 1})
    layer.send("b", {"n": 2})
    assert child.hear() == ["a", {"n": 1}]
    assert sleeper.result() == ("b", {"n": 2})
    assert_sound(layer)


def test_receivers_wait_on_in_a_new_segment_after_the_file_was_removed(make_layer, prefix, start, caplog):
    """As by ``rm``, or systemd's ``RemoveIPC``: no waiter is notified, so polls must find it."""
    child = start(sleeps, prefix, ["a"], True)
    layer = make_layer(**LONG)
    sleeper = Sleeper(layer, ["b"])
    until_waiting(layer, "a", 1)
    until_waiting(layer, "b", 1)
    os.unlink(path_of(prefix))
    until(lambda: os.path.exists(path_of(prefix)))  # the waiters' polls have made a new one
    until_waiting(layer, "a", 1)
    until_waiting(layer, "b", 1)
    layer.send("a", {"n": 1})
    layer.send("b", {"n": 2})
    assert child.hear() == ["a", {"n": 1}]
    assert sleeper.result() == ("b", {"n": 2})
    layer.unlink()


# -- forks ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_polling")
def test_a_fork_while_a_thread_waits_disturbs_neither_process(make_layer, prefix):

    layer = make_layer(**LONG)
    sleeper = Sleeper(layer, ["a"])
    until_waiting(layer, "a", 1)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            found = Sleeper(layer, ["b"])
            until_waiting(layer, "b", 1)
            layer.send("b", {"n": 2})
            if found.result() == ("b", {"n": 2}):
                code = 0
            layer.close()
        finally:
            os._exit(code)
    assert reap(pid) == 0
    assert waiters(layer, "a") == 1
    assert len(files_of(prefix)) == 1
    layer.send("a", {"n": 1})
    assert sleeper.result() == ("a", {"n": 1})
    assert_sound(layer)
