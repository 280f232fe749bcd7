"""Processes that use one prefix: what they share, how they end, and the locks that prove they are alive."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
import time

import pytest
from helpers.holders import locked_bytes, opened, segment_of, stores, tries, use
from helpers.layers import assert_sound, drain

from asgi_ipc import ChannelFull, TooManyProcesses
from asgi_ipc.shm.layout import SLOTS


def sends(talk, prefix, channel, count):
    """A child: send ``count`` numbered messages with its process id; wait where the channel is full."""
    with opened(prefix) as layer:
        talk.say("ready")
        talk.hear()
        for number in range(count):
            while True:
                try:
                    layer.send(channel, {"from": os.getpid(), "n": number})
                    break
                except ChannelFull:
                    time.sleep(0.001)
        talk.say(os.getpid())


def receives(talk, prefix, channels, count):
    """A child: receive until ``{"end": True}`` comes, and report what came."""
    received = []
    with opened(prefix) as layer:
        talk.say("ready")
        while True:
            channel, message = layer.receive(channels)
            if channel is None:
                time.sleep(0.0005)
            elif "end" in message:
                break
            else:
                received.append([channel, message["from"], message["n"]])
    talk.say(received)


# -- messages between processes --


def send_when_not_full(layer, message):
    while True:
        try:
            layer.send("back", message)
            return
        except ChannelFull:
            time.sleep(0.001)


def test_messages_go_from_process_to_process_in_order(prefix, make_layer, start):
    layer = make_layer(capacity=50)
    sender, receiver = start(sends, prefix, "there", 1000), start(receives, prefix, ["back"], 1000)
    assert sender.hear() == "ready"
    assert receiver.hear() == "ready"
    sender.say()
    received = 0
    while received < 1000:
        channel, message = layer.receive(["there"])
        if channel:
            assert message["n"] == received
            received += 1
            send_when_not_full(layer, {"from": "parent", "n": message["n"]})
    assert message["from"] == sender.hear()
    send_when_not_full(layer, {"end": True})
    assert receiver.hear() == [["back", "parent", number] for number in range(1000)]
    sender.end()
    receiver.end()
    assert_sound(layer)


def test_a_message_goes_to_one_of_many_receivers(prefix, make_layer, start):
    """Senders and receivers race: a message arrives once, and a receiver gets those of a sender in order."""
    layer = make_layer(capacity=10**6)
    receivers = [start(receives, prefix, channels, 0) for channels in (["a", "p!"], ["p!", "a"])]
    senders = [start(sends, prefix, channel, 700) for channel in ("a", "a", "p!x", "p!y")]
    for child in (*receivers, *senders):
        assert child.hear() == "ready"
    for sender in senders:
        sender.say()
    pids = [sender.hear() for sender in senders]
    while layer.global_statistics()["messages_pending"]:
        time.sleep(0.005)
    received = []
    for _ in receivers:
        layer.send("a", {"end": True})  # the receiver that takes it stops
    for receiver in receivers:
        mine = receiver.hear()
        for pid in pids:
            numbers = [number for _, sender, number in mine if sender == pid]
            assert numbers == sorted(numbers)
        received += mine
    assert sorted((pid, number) for _, pid, number in received) == sorted((p, n) for p in pids for n in range(700))
    for child in (*receivers, *senders):
        child.end()


def test_groups_and_statistics_are_shared(prefix, layer, start):
    child = start(tries, prefix, "groups")
    child.hear()
    child.say(True)
    assert child.hear() == ["done"]
    assert layer.group_channels("g") == ["a"]
    child.hear()
    other = start(sends, prefix, "a", 3)
    other.hear()
    other.say()
    other.hear()
    assert layer.channel_statistics("a")["messages_count"] == 3
    layer.send_group("g", {"n": 9})
    assert [message["n"] for _, message in drain(layer, "a")] == [0, 1, 2, 9]
    child.say(False)
    child.end()
    other.end()


def ends_without_closing(talk, prefix, how):
    """A child: end without closing the layer, in one of several ways."""
    layer = opened(prefix)
    layer.send("a", {"how": how})
    layer.group_add("g", how)
    if how == "_exit":
        os._exit(0)
    if how == "exit":
        raise SystemExit
    if how == "thread":
        threading.Thread(target=layer.send, args=("a", {"how": "thread"})).start()


@pytest.mark.parametrize("how", ["return", "exit", "_exit", "thread"])
def test_a_process_may_end_without_closing(prefix, layer, start, how):
    child = start(ends_without_closing, prefix, how)
    child.end()
    assert child.errors() == ":\n"
    assert layer.receive(["a"]) == ("a", {"how": how})
    assert layer.group_channels("g") == [how]
    assert_sound(layer)


# -- locks that prove that a process is alive --


def test_descriptors_are_not_inherited_by_other_programs(layer):
    for store in ("message_store", "group_store"):
        assert not os.get_inheritable(segment_of(layer, store).fd)


def looks_alive(start, layer, store="message_store"):
    """Return True if another process finds the lock of this process."""
    child = start(locked_bytes, f"/dev/shm/{segment_of(layer, store).name}")
    found = [pid for _, pid in child.hear()]
    child.end()
    return os.getpid() in found


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_process_that_closes_one_of_its_layers_is_alive(prefix, make_layer, start, how):
    layer = make_layer()
    use(layer, "a", 1)
    if how == "close":
        make_layer().close()
    else:
        opened(prefix)
        gc.collect()
    for store in ("message_store", "group_store"):
        assert looks_alive(start, layer, store)
    layer.close()
    layer = make_layer()
    use(layer, "a", 1)
    for store in ("message_store", "group_store"):
        assert looks_alive(start, layer, store)


def test_a_process_that_closes_its_only_layer_holds_no_lock(prefix, make_layer, start):
    layer = make_layer()
    assert looks_alive(start, layer)
    names = [segment_of(layer, store).name for store in ("message_store", "group_store")]
    layer.close()
    for name in names:
        child = start(locked_bytes, f"/dev/shm/{name}")
        assert child.hear() == []
        child.end()


@stores
def test_a_holder_that_has_closed_another_layer_keeps_the_mutex(prefix, make_layer, start, store, operation):
    layer = make_layer()
    make_layer().close()
    child = start(tries, prefix, {"message_store": "messages", "group_store": "groups"}[store])
    child.hear()

    def hold():
        child.say(True)
        return child.hear()

    outcome = getattr(layer, store).sections.exclusively(hold)
    assert outcome[:2] == ["busy", os.getpid()]
    child.hear()
    child.say(True)
    assert child.hear() == ["done"]
    operation(layer)


# -- limits --


def locks_every_slot(talk, path):
    """A child: hold the locks of as many processes as may use a prefix."""
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, SLOTS, 1)
    talk.say("locked")
    talk.hear()


@pytest.mark.parametrize("kind", ["messages", "groups"])
def test_one_process_too_many_is_refused(prefix, make_layer, start, kind):
    make_layer().close()
    child = start(locks_every_slot, f"/dev/shm/{prefix}-{kind}")
    child.hear()
    with pytest.raises(TooManyProcesses) as refusal:
        opened(prefix).group_add("g", "a")
    assert (refusal.value.segment, refusal.value.limit) == (f"{prefix}-{kind}", 1024)
    assert "1024 processes already use this prefix" in str(refusal.value)
    assert "different prefixes" in str(refusal.value)
    child.say()
    child.end()
    layer = make_layer()
    layer.send("a", {})
    layer.group_add("g", "a")
    assert_sound(layer)
