"""A holder of the mutex that dies, is stopped or interrupted, or runs in another PID namespace."""

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


# -- holders that die or are stopped --


@stores
def test_a_killed_holder_is_recovered_from(prefix, layer, start, store, operation):
    """The holder is a zombie: its parent has not waited for it."""
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
def test_many_processes_that_wait_for_the_mutex_go_on_when_its_holder_is_killed(prefix, layer, start, store, operation):
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
def test_a_stopped_holder_is_waited_for_and_then_named_in_the_error(prefix, make_layer, start, store, operation):
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
def test_a_holder_killed_while_it_is_stopped_is_recovered_from(prefix, make_layer, start, store, operation):
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
    """Return a function that installs a handler for SIGUSR1 and SIGALRM; both are restored after the test."""
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
def test_a_signal_handler_in_a_critical_section_cannot_use_the_store(layer, on_signal, store, operation):
    refused = []

    def handler(number, frame):
        try:
            operation(layer)
        except RuntimeError as error:
            refused.append(str(error))

    on_signal(handler)
    assert getattr(layer, store).sections.exclusively(lambda: signal.raise_signal(signal.SIGUSR1) or "done") == "done"
    assert len(refused) == 1
    assert f"this thread is already using {segment_of(layer, store).name}" in refused[0]
    assert "a signal handler" in refused[0]
    assert state(layer) == ({}, {})
    operation(layer)
    signal.raise_signal(signal.SIGUSR1)  # outside the critical section it can
    assert len(refused) == 1
    assert_sound(layer)


@stores
def test_a_finaliser_in_a_critical_section_cannot_use_the_store(layer, store, operation):
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


def test_a_signal_handler_in_a_critical_section_can_use_the_other_store(layer, on_signal):
    on_signal(lambda number, frame: layer.group_add("g", "a"))
    layer.message_store.sections.exclusively(lambda: signal.raise_signal(signal.SIGUSR1))
    assert layer.group_channels("g") == ["a"]


class Interrupt(BaseException):
    """An exception for signal handlers to raise."""


@stores
def test_a_store_works_after_a_handler_has_raised_in_a_critical_section(layer, on_signal, store, operation):
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


def test_an_interrupted_operation_is_atomic(make_layer, on_signal):
    """A signal handler raises at random moments of every kind of operation."""
    layer = make_layer(**OPTIONS)

    def handler(number, frame):
        raise Interrupt

    on_signal(handler)
    rng = random.Random(5)
    operations = [
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
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 4e-5))
            try:
                operations[number % 5](number)
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
    """Return the command that starts a process in a new PID namespace; skip where that is not permitted."""
    try:
        permitted = subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=LIMIT).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("this user may not make PID namespaces")
    return NAMESPACE


@stores
def test_a_holder_in_another_pid_namespace_counts_as_alive(prefix, make_layer, start, namespace, store, operation):
    layer = make_layer(patience=PATIENCE)
    holder = start(holds, prefix, store, through=namespace)
    assert holder.hear() == 1  # its id in its own namespace
    with pytest.raises(SegmentBusy) as busy:
        operation(layer)
    with open(f"/proc/{holder.pid}/task/{holder.pid}/children") as children:
        assert busy.value.pid == int(children.read())
    holder.die()
    operation(layer)
    assert_sound(layer)


@pytest.mark.parametrize("kind", ["messages", "groups"])
def test_a_holder_outside_the_pid_namespace_counts_as_alive(prefix, make_layer, start, namespace, kind):
    """Its process id is not visible inside the namespace, so the error does not contain it."""
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
