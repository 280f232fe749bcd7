"""
Crowds that wait: each message wakes one of them, and none is left lying because one was killed, stopped or late.

Who depends on being rung never looks by himself here; where a look is what heals, it is left to its once a second.
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
from asgi_ipc.shm.layout import AT_SLOTS, SLOT_WORDS, SLOTS
from asgi_ipc.shm.wakeup_fifo import WakeupFifo, sweep_fifos
from asgi_ipc.stores.messages.wakeups import Wakeups

LONG = {"block_timeout": 3600}
CROWD = 50
#: Seconds after which whoever is woken in vain has been woken.
SETTLED = 0.3


@pytest.fixture
def no_looks(monkeypatch):
    never_poll(monkeypatch.setattr)


def until_waiting(layer, channel, count):
    until(lambda: waiters(layer, channel) == count)


# -- one message wakes one ----------------------------------------------------------------------------------------


def count_looks(layer, number, words):
    """Count in a word how often a process hangs itself up or looks for messages."""
    pop_again = layer.message_store.wakeups.pop_again

    def counted(*args):
        words[number] += 1
        return pop_again(*args)

    layer.message_store.wakeups.pop_again = counted


def takes(layer, channel, times):
    """What a process of a crowd does: take so many messages, and count looks and messages."""

    def body(number, words):
        count_looks(layer, number, words)
        for _ in range(times):
            assert layer.receive([channel], block=True)[0].startswith(channel)
            words[CROWD + number] += 1
        signal.pause()

    return body


@pytest.mark.usefixtures("no_looks")
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
            # One wakes and takes it, and hangs himself up again.
            assert crowd.sum(0, CROWD) == CROWD + 2 * count
        assert_sound(layer)


@pytest.mark.usefixtures("no_looks")
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
        assert crowd.sum(0, CROWD) == 2 * CROWD  # each looked once, and found something
        assert waiters(layer, "p!") == 0
        assert layer.receive(["p!"]) == (None, None)
        assert_sound(layer)


# -- waiters who do not take what they are called for -------------------------------------------------------------


@pytest.mark.usefixtures("no_looks")
def test_a_message_goes_past_waiters_who_were_killed(make_layer, prefix):
    """They stand first, and each had been killed when he was called."""
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
        assert len(files_of(prefix)) == 1  # their wakeup FIFOs went with them
        assert_sound(layer)


@pytest.mark.usefixtures("no_looks")
def test_a_message_for_a_waiter_who_is_killed_when_called_goes_to_the_next_one(make_layer):
    """He was rung and did not get round to it; the sweep finds him, who is left to ring."""
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


def test_a_message_for_a_waiter_who_is_stopped_is_taken_by_one_who_looks(make_layer):
    layer = make_layer(**LONG)
    with Crowd(1, takes(layer, "a", 2), 2 * CROWD) as crowd:
        until_waiting(layer, "a", 1)
        crowd.kill(0, signal.SIGSTOP)
        sleeper = Sleeper(layer, ["b", "a"])
        until_waiting(layer, "a", 2)
        layer.send("a", {"n": 1})
        assert sleeper.result() == ("a", {"n": 1})
        crowd.kill(0, signal.SIGCONT)
        until_waiting(layer, "a", 1)  # he hangs again
        layer.send("a", {"n": 2})
        crowd.until_sum(1, CROWD)
        assert_sound(layer)


def rings_nobody(talk, prefix):
    """A child that is killed when it has sent, and before it rings."""
    Wakeups.notify = lambda wakeups, tokens: any(tokens) and os.kill(os.getpid(), signal.SIGKILL)
    layer = IPCChannelLayer(prefix, **OPTIONS)
    talk.hear()
    layer.send("a", {"n": 1})
    talk.say("alive")


@pytest.mark.parametrize("wanted", [["a"], ["b", "a", "c"]])
def test_a_sender_who_is_killed_before_he_rings_is_healed_by_a_look(layer, prefix, start, wanted):
    child, sender = start(sleeps, prefix, wanted, True), start(rings_nobody, prefix)
    until_waiting(layer, "a", 1)
    sender.say()
    assert sender.process.wait(LIMIT) == -signal.SIGKILL
    assert child.hear() == ["a", {"n": 1}]
    assert waiters(layer, "a") == 0
    assert_sound(layer)


def test_whoever_finds_his_doorbell_removed_has_another_one(make_layer, prefix):
    layer = make_layer(**LONG)
    sleeper = Sleeper(layer, ["a"])
    until_waiting(layer, "a", 1)
    (name,) = files_of(prefix)
    os.unlink(f"/dev/shm/{name}")
    until(lambda: files_of(prefix) != [] and waiters(layer, "a") == 1)
    assert fifos(layer) == 1
    assert files_of(prefix) != [name]
    make_layer().send("a", {"n": 1})
    assert sleeper.result() == ("a", {"n": 1})


@pytest.mark.usefixtures("no_looks")
def test_whoever_was_called_for_two_channels_leaves_one_to_the_next(make_layer, monkeypatch):
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


@pytest.mark.usefixtures("no_looks")
def test_short_waits_lose_nothing_to_long_ones(make_layer):
    """Whoever leaves at the moment in which he is called has taken the message or passed it on."""
    hasty, patient, sender = make_layer(block_timeout=0.001), make_layer(**LONG), make_layer(capacity=10**6)
    count, dice = 400, random.Random(1)
    heard, over = [], threading.Event()

    def hurry():
        while not over.is_set():
            _, message = hasty.receive(["a", "b"], block=True)
            if message:
                heard.append(message["n"])

    def wait():
        while True:
            _, message = patient.receive(["a"], block=True)
            if message["n"] < 0:
                return
            heard.append(message["n"])

    threads = [threading.Thread(target=work, daemon=True) for work in (hurry, hurry, hurry, wait, wait)]
    for thread in threads:
        thread.start()
    for number in range(count):
        sender.send("a", {"n": number})
        if number % 20 == 0:
            until(lambda sent=number + 1: len(heard) == sent)
        time.sleep(dice.random() * 0.002)
    until(lambda: len(heard) == count)
    over.set()
    for thread in threads[:3]:
        thread.join(LIMIT)
    for _ in range(2):
        sender.send("a", {"n": -1})
    for thread in threads[3:]:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert sorted(heard) == list(range(count))
    assert waiters(sender, "a") == 0
    assert_sound(sender)


def test_no_message_lies_while_waiters_are_killed_and_stopped(make_layer, prefix):
    """Processes that are killed and stopped at random wait: each message comes, or went with one who was killed."""
    layer, dice = make_layer(**LONG), random.Random(2)

    def body(number, words):
        while True:
            words[CROWD] = 1 + layer.receive(["a", "p!"], block=True)[1]["n"]

    rounds = 60
    with Crowd(6, body, 2 * CROWD) as crowd:
        until_waiting(layer, "a", 6)
        for number in range(rounds):
            victim = dice.randrange(6)
            how = dice.choice((signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT))
            if dice.random() < 0.5:
                hit(crowd, victim, how, layer)
                layer.send(dice.choice(("a", "p!x")), {"n": number})
            else:
                layer.send(dice.choice(("a", "p!x")), {"n": number})
                hit(crowd, victim, how, layer)
            if how == signal.SIGKILL:
                crowd.pids[victim] = crowd._fork(body, victim)
            else:
                crowd.kill(dice.randrange(6), signal.SIGCONT)
            deadline = time.monotonic() + 3  # whoever was killed may have had it
            while crowd.words[CROWD] <= number and time.monotonic() < deadline:
                time.sleep(0.001)
            lies = layer.receive(["a", "p!"]) if crowd.words[CROWD] <= number else (None, None)
            if lies != (None, None):
                stopped = [state_of(pid) for pid in crowd.pids]
                assert set(stopped) == {"T"}, f"message {number} is left lying: {stopped}"
        for number in range(6):
            crowd.kill(number)
    until(lambda: layer.receive(["other"]) == (None, None) and fifos(layer) == 0)
    # Killed between making its wakeup FIFO and having it known, one leaves a file to whoever makes the segment anew.
    assert len(files_of(prefix)) <= 2
    sweep_fifos(layer.message_store.name)
    assert files_of(prefix) == []
    assert_sound(layer)


def hit(crowd, victim, how, layer):
    """Send a signal to a process; one that is stopped inside the section, where nobody could pass, a little later."""
    crowd.kill(victim, how)
    if how == signal.SIGSTOP:
        until(lambda: state_of(crowd.pids[victim]) == "T")
        while somebody_stays_inside(layer):
            crowd.kill(victim, signal.SIGCONT)
            time.sleep(0.001)
            crowd.kill(victim, how)
            until(lambda: state_of(crowd.pids[victim]) == "T")


def somebody_stays_inside(layer):
    """Whether a process seems to be in the section for far longer than one takes."""
    slots = layer.message_store.sections.bound[0].words[AT_SLOTS : AT_SLOTS + SLOTS * SLOT_WORDS : SLOT_WORDS]
    deadline = time.monotonic() + 0.05
    while time.monotonic() < deadline:
        if not any(slots):
            return False
    return True


def state_of(pid):
    """The state of a process: "T" if it is stopped."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


# -- many -----------------------------------------------------------------------------------------------------------


def test_a_thousand_threads_wait_on_one_machine(make_layer, prefix):
    """Four processes with 250 threads each: everybody gets his message. Then all are killed, and nothing stays."""
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
        # All sleep again: one killed while it makes its doorbell would leave a file that nobody knows of.
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


def test_the_next_creation_sweeps_doorbells_of_the_dead(make_layer, prefix):
    layer = make_layer(**LONG)
    with Crowd(3, takes(layer, "a", 1), 2 * CROWD) as crowd:
        until_waiting(layer, "a", 3)
        for number in range(3):
            crowd.kill(number)
    os.unlink(f"/dev/shm/{prefix}-messages")
    assert len(files_of(prefix)) == 3
    with IPCChannelLayer(prefix, **OPTIONS):
        assert files_of(prefix) == []
