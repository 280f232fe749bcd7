"""
Many waiting processes: a message wakes one of them, and none is left when one was killed, stopped or late.

Tests of notifications switch the polls of waiters off. Tests of polls keep their period of one second.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest
from helpers.processes import LIMIT
from helpers.sleepers import Crowd, Sleeper, sleeps
from helpers.waiting import OPTIONS, assert_sound, fifos, files_of, never_poll, until, waiters

from asgi_ipc import IPCChannelLayer
from asgi_ipc.shm import fifo_directory
from asgi_ipc.shm.fifo_directory import sweep_fifos
from asgi_ipc.shm.layout import AT_SLOTS, SLOT_WORDS, SLOTS
from asgi_ipc.shm.wakeup_fifo import WakeupFifo
from asgi_ipc.stores.messages.wakeups import Wakeups

LONG = {"block_timeout": 3600}
CROWD = 50
#: Seconds after which a receiver that is woken in vain has been woken.
SETTLED = 0.3


@pytest.fixture
def no_polling(monkeypatch):
    never_poll(monkeypatch.setattr)


def until_waiting(layer, channel, count):
    until(lambda: waiters(layer, channel) == count)


# -- one message wakes one receiver --------------------------------------------------------------------------


def count_attempts(layer, number, words):
    """Count in ``words[number]`` how often a process tries to take a message, or else registers."""
    pop_again = layer.message_store.wakeups.pop_again

    def counted(*args):
        words[number] += 1
        return pop_again(*args)

    layer.message_store.wakeups.pop_again = counted


def takes(layer, channel, times):
    """Return the body of a process that takes ``times`` messages, and counts its attempts and messages."""

    def body(number, words):
        count_attempts(layer, number, words)
        for _ in range(times):
            assert layer.receive([channel], block=True)[0].startswith(channel)
            words[CROWD + number] += 1
        signal.pause()

    return body


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize(("wanted", "sent_to"), [("a", "a"), ("p!", "p!x")])
def test_one_message_wakes_one_of_fifty_processes(make_layer, wanted, sent_to):
    layer = make_layer(**LONG)
    with Crowd(CROWD, takes(layer, wanted, 10**6), 2 * CROWD) as crowd:
        until_waiting(layer, wanted, CROWD)
        assert crowd.sum(0, CROWD) == CROWD
        for count in (1, 2, 3):
            layer.send(sent_to, {"n": count})
            crowd.until_sum(count, CROWD)
            until_waiting(layer, wanted, CROWD)
            time.sleep(SETTLED)
            # One process is woken: it takes the message and registers again, two attempts.
            assert crowd.sum(0, CROWD) == CROWD + 2 * count
        assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("how", ["each", "group"])
def test_fifty_messages_wake_fifty_processes(make_layer, how):
    layer = make_layer(**LONG)
    members = [f"p!{number}" for number in range(CROWD)]
    for member in members:
        layer.group_add("g", member)
    with Crowd(CROWD, takes(layer, "p!", 1), 2 * CROWD) as crowd:
        until_waiting(layer, "p!", CROWD)
        if how == "group":
            layer.send_group("g", {"n": 1})
        else:
            for member in members:
                layer.send(member, {"n": 1})
        crowd.until_sum(CROWD, CROWD)
        time.sleep(SETTLED)
        assert list(crowd.words[CROWD:]) == [1] * CROWD
        assert crowd.sum(0, CROWD) == 2 * CROWD  # each was woken once, and found a message
        assert waiters(layer, "p!") == 0
        assert layer.receive(["p!"]) == (None, None)
        assert_sound(layer)


# -- waiters that do not take the message they were notified of ----------------------------------------------


@pytest.mark.usefixtures("no_polling")
def test_a_message_goes_past_waiters_that_were_killed(make_layer, prefix):
    """They are the first waiters of the channel, and dead when the message is sent."""
    layer = make_layer(**LONG)
    with Crowd(10, takes(layer, "a", 1), 2 * CROWD) as crowd:
        until_waiting(layer, "a", 10)
        sleeper = Sleeper(layer, ["a"])
        until_waiting(layer, "a", 11)
        for number in range(10):
            crowd.kill(number)
        layer.send("a", {"n": 1})
        assert sleeper.result() == ("a", {"n": 1})
        assert waiters(layer, "a") == 0
        assert len(files_of(prefix)) == 1  # the FIFOs of the dead were removed
        assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
def test_a_message_for_a_waiter_killed_after_its_notification_goes_to_the_next_one(make_layer):
    """It was notified, but killed before it took the message: a sweep unregisters it and passes that on."""
    layer, sender = make_layer(**LONG), make_layer()
    with Crowd(1, takes(layer, "a", 1), 2 * CROWD) as crowd:
        until_waiting(layer, "a", 1)
        crowd.kill(0, signal.SIGSTOP)
        sleeper = Sleeper(layer, ["a"])
        until_waiting(layer, "a", 2)
        sender.send("a", {"n": 1})
        assert waiters(layer, "a") == 2
        crowd.kill(0)
        until(lambda: sender.receive(["other"]) == (None, None) and not sleeper.is_alive())
        assert sleeper.result() == ("a", {"n": 1})


def test_a_message_for_a_stopped_waiter_is_taken_by_one_that_polls(make_layer):
    layer = make_layer(**LONG)
    with Crowd(1, takes(layer, "a", 2), 2 * CROWD) as crowd:
        until_waiting(layer, "a", 1)
        crowd.kill(0, signal.SIGSTOP)
        sleeper = Sleeper(layer, ["b", "a"])
        until_waiting(layer, "a", 2)
        layer.send("a", {"n": 1})
        assert sleeper.result() == ("a", {"n": 1})
        crowd.kill(0, signal.SIGCONT)
        until_waiting(layer, "a", 1)  # it has registered again
        layer.send("a", {"n": 2})
        crowd.until_sum(1, CROWD)
        assert_sound(layer)


def dies_before_notifying(talk, prefix):
    """A child that is killed after the commit of its message, and before it notifies the waiter."""
    Wakeups.notify = lambda wakeups, tokens: any(tokens) and os.kill(os.getpid(), signal.SIGKILL)
    layer = IPCChannelLayer(prefix, **OPTIONS)
    talk.hear()
    layer.send("a", {"n": 1})
    talk.say("alive")


@pytest.mark.parametrize("wanted", [["a"], ["b", "a", "c"]])
def test_a_poll_finds_the_message_of_a_sender_killed_before_it_notified(layer, prefix, start, wanted):
    child, sender = start(sleeps, prefix, wanted, True), start(dies_before_notifying, prefix)
    until_waiting(layer, "a", 1)
    sender.say()
    assert sender.process.wait(LIMIT) == -signal.SIGKILL
    assert child.hear() == ["a", {"n": 1}]
    assert waiters(layer, "a") == 0
    assert_sound(layer)


def test_a_waiter_whose_fifo_was_removed_makes_another_one(make_layer, prefix):
    layer = make_layer(**LONG)
    sleeper = Sleeper(layer, ["a"])
    until_waiting(layer, "a", 1)
    (name,) = files_of(prefix)
    os.unlink(f"/dev/shm/{prefix}-messages.wakeup/{name}")
    until(lambda: files_of(prefix) != [] and waiters(layer, "a") == 1)
    assert fifos(layer) == 1
    assert files_of(prefix) != [name]
    make_layer().send("a", {"n": 1})
    assert sleeper.result() == ("a", {"n": 1})


@pytest.mark.usefixtures("no_polling")
def test_a_receiver_notified_for_two_channels_passes_one_notification_on(make_layer, monkeypatch):
    layer, sender = make_layer(**LONG), make_layer()
    sleep, go, slow = WakeupFifo.wait, threading.Event(), set()

    def sleeps_on(fifo, seconds):
        if threading.current_thread() in slow:
            assert go.wait(LIMIT)
        return sleep(fifo, seconds)

    monkeypatch.setattr(WakeupFifo, "wait", sleeps_on)
    took = set()
    for number in range(20):
        go.clear()
        both = Sleeper(layer, ["a", "p!"])
        slow.add(both)
        until_waiting(layer, "p!", 1)
        single = {each: Sleeper(layer, [each]) for each in ("a", "p!")}
        until_waiting(layer, "a", 2)
        until_waiting(layer, "p!", 2)
        sender.send("a", {"n": number})
        sender.send("p!x", {"n": number})
        go.set()
        channel, message = both.result()
        assert message == {"n": number}
        took.add(channel)
        other, name = ("p!", "p!x") if channel == "a" else ("a", "a")
        assert single.pop(other).result() == (name, {"n": number})
        (left,) = single
        sender.send({"a": "a", "p!": "p!x"}[left], {})
        single[left].result()
    assert took == {"a", "p!x"}
    assert_sound(layer)


@pytest.mark.usefixtures("no_polling")
def test_receivers_with_short_and_long_timeouts_lose_no_message(make_layer):
    """A receiver whose timeout ends when it is notified takes the message or passes the notification on."""
    short, long, sender = make_layer(block_timeout=0.001), make_layer(**LONG), make_layer(capacity=10**6)
    count, rng = 400, random.Random(1)
    received, stopped = [], threading.Event()

    def receive_short():
        while not stopped.is_set():
            _, message = short.receive(["a", "b"], block=True)
            if message:
                received.append(message["n"])

    def receive_long():
        while True:
            _, message = long.receive(["a"], block=True)
            if message["n"] < 0:
                return
            received.append(message["n"])

    bodies = (receive_short, receive_short, receive_short, receive_long, receive_long)
    threads = [threading.Thread(target=body, daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for number in range(count):
        sender.send("a", {"n": number})
        if number % 20 == 0:
            until(lambda sent=number + 1: len(received) == sent)
        time.sleep(rng.random() * 0.002)
    until(lambda: len(received) == count)
    stopped.set()
    for thread in threads[:3]:
        thread.join(LIMIT)
    for _ in range(2):
        sender.send("a", {"n": -1})
    for thread in threads[3:]:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert sorted(received) == list(range(count))
    assert waiters(sender, "a") == 0
    assert_sound(sender)


def test_no_message_is_left_while_waiters_are_killed_and_stopped(make_layer, prefix, monkeypatch):
    """Waiting processes are killed and stopped at random: a message arrives, or a killed process took it."""
    layer, rng = make_layer(**LONG), random.Random(2)

    def body(number, words):
        while True:
            words[CROWD] = 1 + layer.receive(["a", "p!"], block=True)[1]["n"]

    rounds = 60
    with Crowd(6, body, 2 * CROWD) as crowd:
        until_waiting(layer, "a", 6)
        for number in range(rounds):
            target = rng.randrange(6)
            signal_number = rng.choice((signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT))
            if rng.random() < 0.5:
                send_signal(crowd, target, signal_number, layer)
                layer.send(rng.choice(("a", "p!x")), {"n": number})
            else:
                layer.send(rng.choice(("a", "p!x")), {"n": number})
                send_signal(crowd, target, signal_number, layer)
            if signal_number == signal.SIGKILL:
                crowd.pids[target] = crowd._fork(body, target)
            else:
                crowd.kill(rng.randrange(6), signal.SIGCONT)
            deadline = time.monotonic() + 3  # a killed process may have taken the message
            while crowd.words[CROWD] <= number and time.monotonic() < deadline:
                time.sleep(0.001)
            left = layer.receive(["a", "p!"]) if crowd.words[CROWD] <= number else (None, None)
            if left != (None, None):
                states = [state_of(pid) for pid in crowd.pids]
                assert set(states) == {"T"}, f"message {number} is left although a process waits: {states}"
        for number in range(6):
            crowd.kill(number)
    until(lambda: layer.receive(["other"]) == (None, None) and fifos(layer) == 0)
    # A process killed after it made its FIFO and before it registered it leaves a file. The next creation of
    # the segment removes it, at once or, if it had no name yet, when it is surely not being made any more.
    assert len(files_of(prefix)) <= 2
    monkeypatch.setattr(fifo_directory, "UNFINISHED_AGE", -1.0)
    sweep_fifos(layer.message_store.name, 0o600)
    assert files_of(prefix) == []
    assert_sound(layer)


def send_signal(crowd, target, signal_number, layer):
    """Send a signal to a process, but do not leave it stopped while it holds the mutex: others need it."""
    crowd.kill(target, signal_number)
    if signal_number == signal.SIGSTOP:
        until(lambda: state_of(crowd.pids[target]) == "T")
        while mutex_stays_held(layer):
            crowd.kill(target, signal.SIGCONT)
            time.sleep(0.001)
            crowd.kill(target, signal_number)
            until(lambda: state_of(crowd.pids[target]) == "T")


def mutex_stays_held(layer):
    """Return True if the mutex is held far longer than a critical section takes."""
    slots = layer.message_store.sections.bound[0].words[AT_SLOTS : AT_SLOTS + SLOTS * SLOT_WORDS : SLOT_WORDS]
    deadline = time.monotonic() + 0.05
    while time.monotonic() < deadline:
        if not any(slots):
            return False
    return True


def state_of(pid):
    """Return the state of a process from ``/proc``: "T" if it is stopped."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


# -- many ----------------------------------------------------------------------------------------------------


def test_a_thousand_waiting_threads_get_their_messages(make_layer, prefix):
    """Four processes with 250 threads each. When they are killed, their waiters and FIFOs are removed."""
    processes, threads = 4, 250
    layer = make_layer(message_memory=4 << 20, capacity=processes * threads, **LONG)

    def body(number, words):
        def wait(at):
            while True:
                _, message = layer.receive([f"mine-{at}", "all"], block=True)
                words[at] += message["n"]

        threading.stack_size(256 * 1024)
        for thread in range(threads):
            threading.Thread(target=wait, args=(number * threads + thread,), daemon=True).start()
        signal.pause()

    with Crowd(processes, body, processes * threads) as crowd:
        until_waiting(layer, "all", processes * threads)
        assert fifos(layer) == len(files_of(prefix)) == processes * threads
        for at in range(processes * threads):
            layer.send(f"mine-{at}", {"n": 1})
        crowd.until_sum(processes * threads)
        assert set(crowd.words) == {1}
        until_waiting(layer, "all", processes * threads)
        for _ in range(processes * threads):
            layer.send("all", {"n": 1})
        crowd.until_sum(2 * processes * threads)
        # All sleep again: a process killed while it makes its FIFO would leave a file that no record leads to.
        until_waiting(layer, "all", processes * threads)
        assert_sound(layer)
        crowd.kill(0)
        crowd.kill(1)
        until(lambda: layer.receive(["other"]) == (None, None) and len(files_of(prefix)) == 2 * threads)
        until_waiting(layer, "all", 2 * threads)
        assert_sound(layer)
        crowd.kill(2)
        crowd.kill(3)
    assert len(files_of(prefix)) > threads
    layer.unlink()
    assert files_of(prefix) == []


def test_the_next_creation_removes_the_fifos_of_dead_processes(make_layer, prefix):

    layer = make_layer(**LONG)
    with Crowd(3, takes(layer, "a", 1), 2 * CROWD) as crowd:
        until_waiting(layer, "a", 3)
        for number in range(3):
            crowd.kill(number)
    os.unlink(f"/dev/shm/{prefix}-messages")
    assert len(files_of(prefix)) == 3
    with IPCChannelLayer(prefix, **OPTIONS):
        assert files_of(prefix) == []
