"""Expiry: expired messages are never received and take neither capacity nor memory."""

from __future__ import annotations

import time

import pytest
from helpers.layers import Clock, assert_sound, drain, state, until_full

from asgi_ipc import ChannelFull, MemoryFull

QUIET = [f"quiet{number}" for number in range(500)]


def tick(layer, clock, milliseconds):
    """Advance the clock by 1 ms at a time, each with one operation on an otherwise unused channel."""
    for _ in range(milliseconds):
        clock.forward(0.001)
        layer.receive(["ticking"])


@pytest.mark.parametrize(("age", "there"), [(0, True), (59.999, True), (60, False), (1e6, False)])
def test_a_message_lives_until_its_expiry(layer, age, there):
    clock = Clock(layer)
    layer.send("a", {"n": 1})
    clock.forward(age)
    assert layer.receive(["a"]) == (("a", {"n": 1}) if there else (None, None))
    assert_sound(layer)


def test_expiry_is_an_option_of_the_sender(make_layer):
    brief, lasting = make_layer(expiry=0.5), make_layer(expiry=600)
    clock = Clock(brief, lasting)
    lasting.send("a", {"from": "lasting"})
    brief.send("a", {"from": "brief"})
    clock.forward(1)
    assert drain(brief, "a") == [("a", {"from": "lasting"})]


def test_expired_messages_between_others_are_never_received(make_layer):
    brief, lasting = make_layer(expiry=5), make_layer(expiry=600)
    clock = Clock(brief, lasting)
    for number in range(9):
        (brief if number % 3 else lasting).send("a", {"n": number})
    clock.forward(6)
    assert [message["n"] for _, message in drain(lasting, "a")] == [0, 3, 6]
    assert_sound(lasting)


@pytest.mark.parametrize("names", [["a"], ["p!a"], ["p!a", "p!b"]], ids=["channel", "socket", "inbox"])
@pytest.mark.parametrize("lasting_ones", [(), (0,), (4,), (0, 4)], ids=["all", "behind", "before", "between"])
def test_expired_messages_take_no_capacity(make_layer, names, lasting_ones):
    brief, lasting = make_layer(expiry=5, capacity=5), make_layer(expiry=600, capacity=5)
    clock = Clock(brief, lasting)
    for number in range(5):
        (lasting if number in lasting_ones else brief).send(names[number % len(names)], {"n": number})
    with pytest.raises(ChannelFull):
        brief.send(names[0], {})
    clock.forward(6)
    for number in range(5 - len(lasting_ones)):
        lasting.send(names[0], {"n": 10 + number})
    with pytest.raises(ChannelFull) as full:
        lasting.send(names[0], {})
    assert (full.value.count, full.value.capacity) == (5, 5)
    inbox = "p!" if "!" in names[0] else "a"
    received = sorted(message["n"] for _, message in drain(lasting, inbox))
    assert received == [*lasting_ones, *range(10, 15 - len(lasting_ones))]
    assert_sound(lasting)


def test_thousands_of_expired_messages_do_not_hide_later_ones(make_layer):
    brief, lasting = make_layer(expiry=5, capacity=10_000), make_layer(expiry=600, capacity=10_000)
    clock = Clock(brief, lasting)
    for number in range(3000):
        brief.send("a", {"n": number})
        brief.send(f"p!{number % 7}", {"n": number})
    lasting.send("a", {"n": "last"})
    lasting.send("p!3", {"n": "last"})
    clock.forward(6)
    assert lasting.receive(["a"]) == ("a", {"n": "last"})
    assert lasting.receive(["p!"]) == ("p!3", {"n": "last"})
    assert lasting.receive(["a", "p!"]) == (None, None)
    assert_sound(lasting)


def test_a_group_send_uses_the_capacity_of_expired_messages(make_layer):
    layer = make_layer(capacity=1)
    clock = Clock(layer)
    for channel in ("a", "p!b"):
        layer.group_add("g", channel)
        layer.send(channel, {"n": "old"})
    clock.forward(61)
    layer.send_group("g", {"n": "new"})
    assert sorted(drain(layer, "a", "p!")) == [("a", {"n": "new"}), ("p!b", {"n": "new"})]


def test_expired_messages_on_unread_channels_are_swept(layer):
    """Operations on another channel are enough: a few hundred within a second."""
    clock = Clock(layer)
    for channel in QUIET:
        layer.send(channel, {"d": b"x" * 100})
    clock.forward(61)
    tick(layer, clock, 600)
    assert state(layer)[0] == {}
    assert_sound(layer)


def test_a_long_queue_of_expired_messages_is_swept(make_layer):
    layer = make_layer(capacity=2000)
    clock = Clock(layer)
    for number in range(1000):
        layer.send("long", {"n": number})
    clock.forward(61)
    before = len(state(layer)[0]["long"])
    tick(layer, clock, 600)
    after = len(state(layer)[0].get("long", ()))
    assert before == 1000
    assert after <= before - 32


def test_a_sweep_that_was_postponed_too_far_still_runs(layer):
    """For example, by a process whose clock was wrong."""
    clock = Clock(layer)
    clock.forward(1e6)
    layer.receive(["a"])
    clock.forward(-1e6)
    layer.message_store._sweep_due = 0  # as in another process, whose clock is right
    for channel in QUIET:
        layer.send(channel, {})
    clock.forward(61)
    tick(layer, clock, 600)
    assert state(layer)[0] == {}


def test_the_sweep_removes_no_unexpired_message(layer):
    clock = Clock(layer)
    for channel in QUIET:
        layer.send(channel, {"to": channel})
    clock.forward(30)
    tick(layer, clock, 1200)
    assert {channel: layer.receive([channel]) for channel in QUIET} == {c: (c, {"to": c}) for c in QUIET}


def test_expired_messages_are_freed_when_memory_is_needed(make_layer):
    """A send frees them at once, without the sweep, also for one message as large as many of them."""
    layer = make_layer(capacity=10**6)
    clock = Clock(layer)
    _, full = until_full(lambda number: layer.send(f"quiet{number % 50}", {"d": b"x" * 500}))
    assert isinstance(full, MemoryFull)
    clock.forward(61)
    layer.send("a", {"d": b"y" * 300_000})
    assert layer.receive(["a"]) == ("a", {"d": b"y" * 300_000})
    assert state(layer)[0] == {}
    assert_sound(layer)


def test_a_group_send_frees_expired_messages_when_memory_is_needed(make_layer):
    layer = make_layer(capacity=10**6)
    clock = Clock(layer)
    until_full(lambda _: layer.send("quiet", {"d": b"x" * 500}))
    clock.forward(61)
    for channel in ("a", "b"):
        layer.group_add("g", channel)
    message = {"d": b"y" * 300_000}
    layer.send_group("g", message)
    assert sorted(drain(layer, "a", "b")) == [("a", message), ("b", message)]


def test_a_jump_of_the_wall_clock_changes_no_expiry(layer, monkeypatch):
    clock = Clock(layer)
    layer.send("a", {"n": 1})
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + 1e6)
    assert layer.receive(["a"]) == ("a", {"n": 1})
    layer.send("a", {"n": 2})
    clock.forward(61)
    monkeypatch.setattr(time, "time", lambda: real - 1e6)
    assert layer.receive(["a"]) == (None, None)


def test_the_clock_is_the_same_for_all_processes(layer):
    for store in (layer.message_store, layer.group_store):
        before, now, after = time.monotonic_ns(), store.sections.clock(), time.monotonic_ns()
        assert before <= now <= after


# -- memberships --


def test_a_membership_expires_unless_it_is_renewed(make_layer):
    layer = make_layer(group_expiry=100)
    clock = Clock(layer)
    for channel in ("a", "b", "c"):
        layer.group_add("g", channel)
    clock.forward(60)
    layer.group_add("g", "b")
    clock.forward(39.5)
    assert layer.group_channels("g") == ["a", "b", "c"]
    clock.forward(1)
    assert layer.group_channels("g") == ["b"]
    layer.send_group("g", {"n": 1})
    assert drain(layer, "a", "b", "c") == [("b", {"n": 1})]
    clock.forward(60)
    assert layer.group_channels("g") == []
    assert_sound(layer)


def test_an_expired_membership_can_be_added_again(make_layer):
    layer = make_layer(group_expiry=100)
    clock = Clock(layer)
    layer.group_add("g", "a")
    clock.forward(101)
    layer.group_add("g", "a")
    assert layer.group_channels("g") == ["a"]
    clock.forward(99)
    assert layer.group_channels("g") == ["a"]


def test_expired_memberships_are_swept(make_layer):
    layer = make_layer(group_expiry=100)
    clock = Clock(layer)
    for number in range(200):
        layer.group_add(f"g{number}", "a")
    clock.forward(101)
    for _ in range(400):
        clock.forward(0.001)
        layer.group_discard("other", "a")
    assert state(layer)[1] == {}
    assert_sound(layer)


def test_expired_memberships_are_freed_when_memory_is_needed(make_layer):
    layer = make_layer(group_expiry=100, group_memory=64 * 1024)
    clock = Clock(layer)
    count, _ = until_full(lambda number: layer.group_add("g", f"channel-{number}"))
    clock.forward(101)
    for number in range(count):
        layer.group_add("h", f"channel-{number}")
    assert len(layer.group_channels("h")) == count
    assert_sound(layer)
