"""
Tens of thousands of cancellations at random moments, while other processes and threads send.

Every message holds its sender and the sender's sequence number. At the end each message has arrived exactly
once, and each receiver has had the messages of one sender in order.
"""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.processes import LIMIT
from helpers.waiting import OPTIONS, assert_sound, run_in, store_of, until, waiters

from asgi_ipc import AsyncIPCChannelLayer, ChannelFull, IPCChannelLayer


def send_until(layer, channel, sender, stop):
    """Send in bursts, with pauses in which receivers wait, until ``stop()``; return how many were sent."""
    rng = random.Random(sender)
    number = 0
    while not stop():
        for _ in range(rng.randrange(1, 6)):
            try:
                layer.send(channel, {"from": sender, "n": number})
            except ChannelFull:
                break
            number += 1
        time.sleep(rng.random() * 0.002)
    return number


def sends(talk, prefix, channel, sender):
    """A child: send until told to stop, and report how many messages it has sent."""
    stopped = threading.Event()
    threading.Thread(target=lambda: (talk.hear(), stopped.set()), daemon=True).start()
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        talk.say("sends")
        talk.say(send_until(layer, channel, sender, stopped.is_set))
        talk.hear()


async def receive_and_cancel(receive, seed, cancellations, over):
    """
    Receive and cancel, after a random number of steps or a random delay.

    Stop when ``cancellations`` receives were cancelled and ``over()`` is true. Return the messages in order,
    and how many receives were cancelled before they got a message.

    """
    rng = random.Random(seed)
    got, cancelled = [], 0
    while cancelled < cancellations or not over():
        task = asyncio.ensure_future(receive())
        how = rng.random()
        if how < 0.6:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
        elif how < 0.9:
            await asyncio.wait({task}, timeout=rng.random() * 0.0006)
        else:
            await asyncio.wait({task}, timeout=0.01)
        task.cancel()
        try:
            got.append(await task)
        except asyncio.CancelledError:
            cancelled += 1
    return got, cancelled


async def receive_with_timeouts(receive, seed, cancellations, over):
    """Do the same with the timeouts of ``asyncio.wait_for``."""
    rng = random.Random(seed)
    got, cancelled = [], 0
    while cancelled < cancellations or not over():
        try:
            got.append(await asyncio.wait_for(receive(), rng.random() * 0.0002))
        except asyncio.TimeoutError:
            cancelled += 1
    return got, cancelled


def check(received, sent):
    """
    Assert that every message arrived exactly once, and those of one sender in order.

    ``received`` holds the messages of each receiver, ``sent`` the number of messages by sender.
    """
    found = defaultdict(list)
    for messages in received:
        own = defaultdict(list)
        for message in messages:
            own[message["from"]].append(message["n"])
        for sender, numbers in own.items():
            assert numbers == sorted(numbers), f"messages of {sender} arrived out of order"
            found[sender] += numbers
    for sender, count in sent.items():
        numbers = sorted(found[sender])
        assert len(numbers) == len(set(numbers)), f"messages of {sender} arrived twice"
        assert numbers == list(range(count)), f"messages of {sender} were lost"


class Senders:
    """Two processes and a thread that send to one channel until ``receivers`` receivers are satisfied."""

    def __init__(self, start, pool, layer, channel, receivers=1):
        self.layer, self.channel, self.receivers = layer, channel, receivers
        self.satisfied = set()
        self.stopped = threading.Event()
        names = [f"{channel}/{number}" for number in range(3)]
        self.children = {sender: start(sends, layer.prefix, channel, sender) for sender in names[:2]}
        for child in self.children.values():
            child.hear()
        self.own = names[2]
        self.in_thread = IPCChannelLayer(layer.prefix, **OPTIONS)
        self.thread = pool.submit(send_until, self.in_thread, channel, self.own, self.stopped.is_set)
        self.sent = pool.submit(self._count)

    def _count(self):
        sent = {self.own: self.thread.result(LIMIT)}
        self.in_thread.close()
        for sender, child in self.children.items():
            child.say()
            sent[sender] = child.hear()
            child.say()
            child.end()
        return sent

    def over(self, receiver=None):
        """
        Note that a receiver has had its cancellations.

        Return True if all receivers have, the senders have stopped and the channel is empty.
        """
        self.satisfied.add(receiver)
        if len(self.satisfied) == self.receivers:
            self.stopped.set()
        return self.sent.done() and not store_of(self.layer).has(self.channel)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request):
    if request.param == "uvloop":
        return pytest.importorskip("uvloop", reason="needs uvloop").new_event_loop
    return asyncio.new_event_loop


@pytest.mark.parametrize(
    ("how", "channel"),
    [
        (receive_and_cancel, "plain"),
        (receive_and_cancel, "specific.process!one"),
        (receive_with_timeouts, "plain"),
    ],
)
def test_cancelling_one_receiver_all_the_time_loses_no_message(make_async, start, pool, new_loop, channel, how):
    layer = make_async()
    senders = Senders(start, pool, layer, channel)
    cancellations = 10_000 if how is receive_and_cancel else 1_000
    got, cancelled = run_in(new_loop(), how(lambda: layer.receive(channel), 1, cancellations, senders.over))
    assert cancelled >= cancellations
    assert len(got) > 100, "the senders have hardly sent anything"
    check([got], senders.sent.result(LIMIT))
    assert waiters(layer, channel) == 0
    assert_sound(layer)


def receives(talk, prefix, channel, seed, cancellations):
    """A child: cancel two receivers in one loop all the time, until told to stop; report what each got."""
    stopped = threading.Event()

    def listen():
        talk.hear()
        stopped.set()

    async def main():
        satisfied = []
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:

            def over(number):
                if number not in satisfied:
                    satisfied.append(number)
                    if len(satisfied) == 2:
                        talk.say("satisfied")
                return stopped.is_set()

            return await asyncio.gather(
                *(
                    receive_and_cancel(
                        lambda: layer.receive(channel), seed + number, cancellations, functools.partial(over, number)
                    )
                    for number in range(2)
                )
            )

    threading.Thread(target=listen, daemon=True).start()
    talk.say([got for got, _ in asyncio.run(main())])


def test_cancelling_many_receivers_of_one_channel_loses_no_message(make_layer, make_async, prefix, start, pool):
    """In two loops of this process and one of another; a thread blocks with a short timeout."""
    layer, threaded = make_async(), make_layer(block_timeout=0.0005)
    senders = Senders(start, pool, layer, "a", receivers=8)
    child = start(receives, prefix, "a", 7, 1_500)

    async def receivers(seed):
        return await asyncio.gather(
            *(
                receive_and_cancel(
                    lambda: layer.receive("a"), seed + number, 1_500, functools.partial(senders.over, seed + number)
                )
                for number in range(3)
            )
        )

    def receive_blocking():
        got, timeouts = [], 0
        while timeouts < 1_500 or not senders.over("thread"):
            channel, message = threaded.receive(["a"], block=True)
            if channel:
                got.append(message)
            else:
                timeouts += 1
        return got

    def run_child():
        child.hear()
        senders.over("child")
        senders.sent.result(LIMIT)
        until(lambda: senders.over("child"))
        child.say()
        got = child.hear()
        child.end()
        return got

    loops = [pool.submit(asyncio.run, receivers(seed)) for seed in (10, 20)]
    blocking, childs = pool.submit(receive_blocking), pool.submit(run_child)
    received = [got for loop in loops for got, _ in loop.result(LIMIT)]
    check([*received, blocking.result(LIMIT), *childs.result(LIMIT)], senders.sent.result(LIMIT))
    assert sum(map(bool, received)) == 6
    assert waiters(layer, "a") == 0
    assert_sound(layer)


def test_cancelling_receivers_of_several_channels_loses_no_message(make_layer, make_async, prefix, start, pool):
    """One receiver waits for three channels, and one for each of the two that are sent to."""
    layer, other = make_async(), make_layer()
    names = ["a", "b", "c"]
    senders = [Senders(start, pool, layer, name, receivers=2) for name in names[:2]]

    def over():
        return all([each.over("all") for each in senders])  # noqa: C419  each of them must be called

    async def receive_all():
        return (await other.receive_async(names))[1]

    async def main():
        return await asyncio.gather(
            receive_and_cancel(receive_all, 1, 3_000, over),
            *(
                receive_and_cancel(functools.partial(layer.receive, each.channel), 2, 3_000, each.over)
                for each in senders
            ),
        )

    received = [got for got, _ in asyncio.run(main())]
    check(received, {sender: count for each in senders for sender, count in each.sent.result(LIMIT).items()})
    assert all(received)
    assert waiters(layer, "a") == waiters(layer, "b") == waiters(layer, "c") == 0
    assert_sound(layer)
