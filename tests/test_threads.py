"""Many threads on one layer object."""

from __future__ import annotations

import threading

from helpers.holders import OPTIONS, holds, stores
from helpers.layers import assert_sound
from helpers.processes import LIMIT


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


