"""Many threads on one layer object."""

from __future__ import annotations

import sys
import threading

import pytest
from helpers.holders import OPTIONS, holds, stores
from helpers.layers import assert_sound
from helpers.processes import LIMIT

from asgi_ipc import IPCChannelLayer
from asgi_ipc.locking import reentrancy


def test_sixteen_threads_on_one_layer_object(make_layer):
    """Eight send and eight receive, over channels, an inbox and a group: nothing is lost, doubled or out of order."""
    layer = make_layer(**OPTIONS)
    layer.group_add("g", "member")
    channels = ["a", "b", "p!x", "p!y"]
    count = 150
    heard, errors = [[] for _ in range(8)], []
    sent = threading.Event()

    def send(number):
        for turn in range(count):
            layer.send(channels[turn % 4], {"from": number, "n": turn})
            if turn % 10 == 0:
                layer.send_group("g", {"from": number, "n": turn})
                layer.group_add("g", f"own{number}")
                layer.group_discard("g", f"own{number}")

    def receive(number):
        while True:
            over = sent.is_set()
            channel, message = layer.receive(["a", "p!", "b", "member"])
            if channel:
                heard[number].append((channel, message["from"], message["n"]))
            elif over:
                return

    def guarded(work, number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work, n)) for n in range(8) for work in (send, receive)]
    for thread in threads:
        thread.start()
    for thread in threads[::2]:
        thread.join(LIMIT)
    sent.set()
    for thread in threads[1::2]:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    expected = [(channels[turn % 4], number, turn) for number in range(8) for turn in range(count)]
    expected += [("member", number, turn) for number in range(8) for turn in range(0, count, 10)]
    assert sorted(one for mine in heard for one in mine if not one[0].startswith("own")) == sorted(expected)
    for mine in heard:
        for channel in (*channels, "member"):
            for number in range(8):
                turns = [turn for where, who, turn in mine if (where, who) == (channel, number)]
                assert turns == sorted(turns)
    assert_sound(layer)


@stores
def test_a_thread_that_waits_lets_the_others_run(prefix, make_layer, start, store, operation):
    """This very thread must run to let the holder out: were the GIL kept while waiting, both would wait for ever."""
    layer = make_layer()
    holder = start(holds, prefix, store)
    holder.hear()
    waiting = threading.Thread(target=operation, args=(layer,))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    holder.say()
    waiting.join(LIMIT)
    assert not waiting.is_alive()
    assert holder.hear() == "out"


@pytest.fixture
def warned(caplog):
    """The warnings of the package so far."""
    caplog.set_level("INFO", logger="asgi_ipc")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "asgi_ipc" and r.levelname == "WARNING"]


def storm(layer, errors, stop):
    """Eight threads that use a layer until they are stopped or meet an error."""

    def work(number):
        try:
            while not stop.is_set():
                layer.send(f"c{number}", {})
                layer.receive([f"c{number}"])
                layer.group_add("g", f"c{number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    return threads


def test_many_threads_notice_a_removal_together(prefix, make_layer, warned):
    layer, stop, errors = make_layer(**OPTIONS), threading.Event(), []
    threads = storm(layer, errors, stop)
    try:
        for count in range(1, 11):
            with IPCChannelLayer(prefix, **OPTIONS) as other:
                other.unlink()
            for _ in range(int(LIMIT / 0.05)):
                if len(warned()) == 2 * count or errors:
                    break
                stop.wait(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(warned()) == 20


def test_threads_of_a_layer_that_is_closed_are_told_so(make_layer):
    for _ in range(20):
        layer, stop, errors = make_layer(**OPTIONS), threading.Event(), []
        threads = storm(layer, errors, stop)
        stop.wait(0.005)
        layer.close()
        stop.wait(0.005)
        stop.set()
        for thread in threads:
            thread.join()
        assert [error for error in errors if not isinstance(error, RuntimeError)] == []


@pytest.mark.parametrize(("mark", "nested"), [(reentrancy.Entry(), True), (reentrancy.NOT_INSIDE, True), (None, False)])
def test_only_a_call_that_may_hold_the_lock_keeps_one_inside_it_from_giving_the_lock_back(mark, nested):
    """One that has left its section does not: its next section, interrupted, would keep out every other thread."""

    def call(inner):
        whatever_it_is_called = mark  # noqa: F841
        return inner()

    assert call(lambda: reentrancy.is_nested(sys._getframe())) is nested
