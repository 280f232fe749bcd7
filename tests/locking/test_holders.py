"""A process inside the critical section that dies, stops, is interrupted, or lives in another PID namespace."""

from __future__ import annotations

import random
import signal
import subprocess
import time

import pytest
from helpers.holders import OPTIONS, PATIENCE, STORES, holds, segment_of, stores, tries
from helpers.layers import assert_sound, drain, state
from helpers.processes import LIMIT

from asgi_ipc import SegmentBusy

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


# -- holders that end, or stop --


@stores
def test_others_go_on_when_a_holder_is_killed(prefix, layer, start, store, operation):
    """Killed, and not even waited for by its parent."""
    layer.send("kept", {"n": 1})
    layer.group_add("kept", "a")
    for _ in range(3):
        holder = start(holds, prefix, store)
        holder.hear()
        holder.kill()
        operation(layer)
        assert_sound(layer)
    assert layer.receive(["kept"]) == ("kept", {"n": 1})
    assert layer.group_channels("kept") == ["a"]
    assert drain(layer, "a") == ([("a", {"n": 1})] * 3 if store == "message_store" else [])


@stores
def test_many_processes_go_on_when_a_holder_is_killed(prefix, layer, start, store, operation):
    others = [start(tries, prefix, {"message_store": "messages", "group_store": "groups"}[store]) for _ in range(3)]
    for other in others:
        other.hear()
    holder = start(holds, prefix, store)
    holder.hear()
    for other in others:
        other.say(True)
    holder.die()
    operation(layer)
    assert [other.hear() for other in others] == [["done"]] * 3
    assert_sound(layer)


@stores
def test_a_stopped_holder_is_waited_for_then_named(prefix, make_layer, start, store, operation):
    layer = make_layer(patience=PATIENCE)
    holder = start(holds, prefix, store)
    pid = holder.hear()
    holder.kill(signal.SIGSTOP)
    before = time.monotonic()
    with pytest.raises(SegmentBusy) as busy:
        operation(layer)
    assert time.monotonic() - before >= PATIENCE
    assert (busy.value.pid, busy.value.seconds) == (pid, PATIENCE)
    assert busy.value.segment == segment_of(layer, store).name
    assert f"process {pid} has held it" in str(busy.value)
    assert f"kill -CONT {pid}" in str(busy.value)
    holder.kill(signal.SIGCONT)
    holder.say()
    assert holder.hear() == "out"
    operation(layer)
    holder.say()
    holder.end()
    assert_sound(layer)


@stores
def test_a_holder_that_is_killed_while_stopped_holds_nobody_up(prefix, make_layer, start, store, operation):
    layer = make_layer(patience=PATIENCE)
    holder = start(holds, prefix, store)
    holder.hear()
    holder.kill(signal.SIGSTOP)
    with pytest.raises(SegmentBusy):
        operation(layer)
    holder.die()
    operation(layer)
    assert_sound(layer)


# -- signals --


@pytest.fixture
def on_signal():
    """Install a handler for SIGUSR1 and SIGALRM; both are put back."""
    numbers = (signal.SIGUSR1, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]

    def install(handler):
        for number in numbers:
            signal.signal(number, handler)

    yield install
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@stores
def test_a_handler_that_interrupts_the_section_is_refused(layer, on_signal, store, operation):
    refused = []

    def handler(number, frame):
        try:
            operation(layer)
        except RuntimeError as error:
            refused.append(str(error))

    on_signal(handler)
    assert getattr(layer, store).sections.exclusively(lambda: signal.raise_signal(signal.SIGUSR1) or "done") == "done"
    assert len(refused) == 1
    assert f"this thread is already inside {segment_of(layer, store).name}" in refused[0]
    assert "a signal handler" in refused[0]
    assert state(layer) == ({}, {})
    operation(layer)
    signal.raise_signal(signal.SIGUSR1)  # outside it may
    assert len(refused) == 1
    assert_sound(layer)


@stores
def test_a_finaliser_that_interrupts_the_section_is_refused(layer, store, operation):
    refused = []

    class Finalised:
        def __del__(self):
            try:
                operation(layer)
            except RuntimeError as error:
                refused.append(str(error))

    held = [Finalised()]
    getattr(layer, store).sections.exclusively(held.clear)
    assert len(refused) == 1
    assert state(layer) == ({}, {})
    operation(layer)
    assert_sound(layer)


def test_a_handler_may_use_the_other_store(layer, on_signal):
    on_signal(lambda number, frame: layer.group_add("g", "a"))
    layer.message_store.sections.exclusively(lambda: signal.raise_signal(signal.SIGUSR1))
    assert layer.group_channels("g") == ["a"]


class Interrupt(BaseException):
    """What a handler raises."""


@stores
def test_a_handler_that_raises_inside_the_section_leaves_it_usable(layer, on_signal, store, operation):
    def handler(number, frame):
        raise Interrupt

    on_signal(handler)
    layer.send("kept", {"n": 1})
    layer.group_add("kept", "a")
    for _ in range(3):
        with pytest.raises(Interrupt):
            getattr(layer, store).sections.exclusively(lambda: signal.raise_signal(signal.SIGUSR1))
        operation(layer)
        assert_sound(layer)
    assert layer.receive(["kept"]) == ("kept", {"n": 1})
    assert layer.group_channels("kept") == ["a"]


def test_an_interrupted_call_happened_wholly_or_not_at_all(make_layer, on_signal):
    """Interrupts at random moments of every kind of call."""
    layer = make_layer(**OPTIONS)

    def handler(number, frame):
        raise Interrupt

    on_signal(handler)
    chance = random.Random(5)
    calls = [
        lambda number: layer.send("a", {"n": number}),
        lambda number: layer.receive(["a", "p!"]),
        lambda number: layer.send(f"p!{number % 3}", {"n": number}),
        lambda number: layer.group_add("g", f"c{number % 20}"),
        lambda number: layer.group_discard("g", f"c{number % 20}"),
    ]
    interrupted = 0
    for number in range(10_000):
        messages, groups = state(layer)
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-5))
            try:
                calls[number % 5](number)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            interrupted += 1
        new_messages, new_groups = state(layer)
        changed = [c for c in {*messages, *new_messages} if messages.get(c) != new_messages.get(c)]
        assert len(changed) <= 1
        for channel in changed:
            old, new = messages.get(channel, []), new_messages.get(channel, [])
            assert new in (old[1:], [*old, new[-1] if new else None])
        old, new = set(groups.get("g", ())), set(new_groups.get("g", ()))
        assert len(old ^ new) <= 1
        if interrupted == 100:
            break
    assert interrupted == 100
    assert_sound(layer)


# -- PID namespaces --


@pytest.fixture
def namespace():
    """The command that starts a process in a PID namespace of its own; skips where that is not permitted."""
    try:
        permitted = subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=LIMIT).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("this user may not make PID namespaces")
    return NAMESPACE


@stores
def test_a_holder_in_another_pid_namespace_lives_until_it_dies(prefix, make_layer, start, namespace, store, operation):
    layer = make_layer(patience=PATIENCE)
    holder = start(holds, prefix, store, through=namespace)
    assert holder.hear() == 1  # who it is, it cannot know
    with pytest.raises(SegmentBusy) as busy:
        operation(layer)
    with open(f"/proc/{holder.pid}/task/{holder.pid}/children") as children:
        assert busy.value.pid == int(children.read())
    holder.die()
    operation(layer)
    assert_sound(layer)


@pytest.mark.parametrize("kind", ["messages", "groups"])
def test_a_holder_outside_the_pid_namespace_lives(prefix, make_layer, start, namespace, kind):
    """Its id means nothing in there, and is not given."""
    layer = make_layer()
    child = start(tries, prefix, kind, through=namespace)
    child.hear()

    def hold():
        child.say(True)
        return child.hear()

    how, pid, text = getattr(layer, STORES[kind][0]).sections.exclusively(hold)
    assert (how, pid) == ("busy", None)
    assert "a process in another PID namespace" in text
    child.hear()
    child.say(True)
    assert child.hear() == ["done"]
    assert_sound(layer)
