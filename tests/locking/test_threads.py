"""Many threads on one layer object."""

from __future__ import annotations

import sys
import threading
import weakref

import pytest
from helpers.holders import OPTIONS, holds, stores
from helpers.layers import assert_sound
from helpers.processes import LIMIT

from asgi_ipc import IPCChannelLayer
from asgi_ipc.locking import reentrancy


def test_sixteen_threads_on_one_layer_object_lose_and_reorder_no_message(make_layer):
    """Eight threads send and eight receive, over channels, an inbox and a group."""
    layer = make_layer(**OPTIONS)
    layer.group_add("g", "member")
    channels = ["a", "b", "p!x", "p!y"]
    count = 150
    received, errors = [[] for _ in range(8)], []
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
            all_sent = sent.is_set()
            channel, message = layer.receive(["a", "p!", "b", "member"])
            if channel:
                received[number].append((channel, message["from"], message["n"]))
            elif all_sent:
                return

    def collect_errors(work, number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=collect_errors, args=(work, n)) for n in range(8) for work in (send, receive)]
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
    assert sorted(one for mine in received for one in mine if not one[0].startswith("own")) == sorted(expected)
    for mine in received:
        for channel in (*channels, "member"):
            for number in range(8):
                turns = [turn for to, sender, turn in mine if (to, sender) == (channel, number)]
                assert turns == sorted(turns)
    assert_sound(layer)


@stores
def test_a_thread_that_waits_for_the_mutex_releases_the_gil(prefix, make_layer, start, store, operation):
    """The main thread makes the holder leave; if the waiting thread kept the GIL, both would hang."""
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
    """Return a function that returns the warnings that the package has logged so far."""
    caplog.set_level("INFO", logger="asgi_ipc")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "asgi_ipc" and r.levelname == "WARNING"]


def start_threads(layer, errors, stop):
    """Start eight threads that use a layer until ``stop`` is set or an operation raises."""

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


def test_many_threads_attach_once_to_a_new_segment_after_a_removal(prefix, make_layer, warned):
    layer, stop, errors = make_layer(**OPTIONS), threading.Event(), []
    threads = start_threads(layer, errors, stop)
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


def test_threads_that_use_a_closed_layer_get_a_runtime_error(make_layer):
    for _ in range(20):
        layer, stop, errors = make_layer(**OPTIONS), threading.Event(), []
        threads = start_threads(layer, errors, stop)
        stop.wait(0.005)
        layer.close()
        stop.wait(0.005)
        stop.set()
        for thread in threads:
            thread.join()
        assert [error for error in errors if not isinstance(error, RuntimeError)] == []


@pytest.mark.parametrize(("mark", "nested"), [(reentrancy.Entry(), True), (reentrancy.NOT_INSIDE, True), (None, False)])
def test_a_frame_is_nested_only_in_a_call_that_may_hold_the_lock(mark, nested):
    """A call that has left its critical section holds no lock, so a call inside it must release the lock."""
    ours = {"__name__": "asgi_ipc.made_up", "mark": mark}
    exec("def call(inner):\n    whatever_it_is_called = mark\n    return inner()", ours)
    assert ours["call"](lambda: reentrancy.is_nested(sys._getframe())) is nested


def test_an_error_inside_leaves_the_frames_of_the_program_alone(make_layer):
    """They keep no references to what they have dropped, as they would where their locals were read (before 3.13)."""

    class Dropped:
        """Something of the program."""

    layer, other = make_layer(**OPTIONS), make_layer(**OPTIONS)
    dropped = Dropped()
    reference = weakref.ref(dropped)
    other.unlink()
    layer.send("a", {})  # meets SegmentGone inside
    del dropped
    assert reference() is None


def test_globals_that_come_and_go_do_not_disturb_an_error(make_layer):
    """Other threads bind and delete globals of the module that called, while the package looks at the stack."""
    layer, other = make_layer(**OPTIONS), make_layer(**OPTIONS)
    program = {"__name__": "program", "done": False, "layer": layer}
    program.update((f"filler{number}", number) for number in range(20_000))  # walking them takes a while
    exec(CHURN, program)
    thread = threading.Thread(target=program["churn"])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(100):
            other.unlink()
            exec(CALL, program)
    finally:
        program["done"] = True
        thread.join()
        sys.setswitchinterval(interval)


#: The frame of a module, whose locals are its globals.
CALL = compile("layer.send('a', {})", "program", "exec")
CHURN = """
def churn():
    number = 0
    while not done:
        number += 1
        globals()[f"name{number % 50}"] = number
        globals().pop(f"name{(number + 25) % 50}", None)
"""
