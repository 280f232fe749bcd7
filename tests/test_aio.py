"""The asynchronous layer: names of this process, owned inboxes, the exceptions of Channels."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import re
from typing import Any

import pytest
from helpers.processes import reap
from helpers.waiting import OPTIONS, until_waiting, within

from asgi_ipc import AsyncIPCChannelLayer, ChannelFull, IPCChannelLayer, MemoryFull, MessageTooLarge

FORM = re.compile(r"([A-Za-z0-9\-_.]+)\.([a-z2-9]{24})!([a-z2-9]{24})")


def parts(name: str) -> list[str]:
    """Return prefix, process part and local part of a name made by ``new_channel``."""
    match = FORM.fullmatch(name)
    assert match, name
    return list(match.groups())


# -- new names -----------------------------------------------------------------------------------------------


def test_new_names_contain_prefix_process_and_local_part(make_async):
    layer, other = make_async(), make_async()

    async def main():
        names = [await each.new_channel() for each in (layer, other) for _ in range(50)]
        names += [await layer.new_channel("websocket.send-1_a"), await layer.new_channel(prefix="http")]
        return [parts(name) for name in names]

    found = asyncio.run(main())
    assert [prefix for prefix, _, _ in found] == ["specific"] * 100 + ["websocket.send-1_a", "http"]
    assert len({process for _, process, _ in found}) == 1
    assert len({local for _, _, local in found}) == len(found)


@pytest.mark.parametrize("beginning", ["a" * 49, "a"])
def test_longest_new_name_is_valid(make_async, beginning):
    layer = make_async()

    async def main():
        name = await layer.new_channel(beginning)
        assert len(name) == len(beginning) + 50 <= 99
        await layer.send(name, {"n": 1})
        assert await layer.receive(name) == {"n": 1}

    asyncio.run(main())


@pytest.mark.parametrize("beginning", ["", "a" * 50, "specific!", "a?", "a b", "ä", "a\n", None, 7, b"a", ["a"]])
def test_wrong_prefix_is_refused(make_async, beginning):
    with pytest.raises(TypeError, match="a prefix for new_channel is a str of 1 to 49 characters") as refusal:
        asyncio.run(make_async().new_channel(beginning))
    assert repr(beginning)[:40].rstrip("'") in str(refusal.value)


def test_seeding_random_does_not_repeat_names(make_async):
    layer = make_async()
    names = set()
    for _ in range(5):
        random.seed(17)
        names.add(asyncio.run(layer.new_channel()))
    assert len(names) == 5


def report_names(talk, prefix):
    """Run in a child: report new names before and after forks, in all processes, with the same seed."""
    layer = AsyncIPCChannelLayer(prefix, **OPTIONS)
    random.seed(17)
    talk.say(asyncio.run(layer.new_channel()))
    for _ in range(2):
        pid = os.fork()
        random.seed(17)
        if not pid:
            talk.say(asyncio.run(layer.new_channel()))
            os._exit(0)
        assert reap(pid) == 0
    talk.say(asyncio.run(layer.new_channel()))


def test_process_part_is_new_after_a_fork_and_does_not_come_from_a_seed(prefix, start):
    found = []
    for _ in range(2):
        child = start(report_names, prefix)
        before, *forked, after = (parts(child.hear())[1] for _ in range(4))
        child.end()
        assert before == after
        found += [before, *forked]
    assert len(set(found)) == len(found) == 6


@pytest.mark.parametrize("name", ["specific.process!", "a!", "reply?"])
def test_receive_rejects_an_inbox(make_async, name):
    with pytest.raises(TypeError, match=r'ends in "[!?]"; receive takes a full name, as new_channel returns it'):
        asyncio.run(make_async().receive(name))


@pytest.mark.parametrize("name", ["a b", "", None, 7, ["a"], {}])
def test_receive_rejects_wrong_names(make_async, name):
    with pytest.raises(TypeError, match="channel name"):
        asyncio.run(asyncio.wait_for(make_async().receive(name), 30))


# -- receive_async -------------------------------------------------------------------------------------------


def test_receive_async_accepts_inboxes_and_any_iterable(make_layer):
    layer = make_layer()

    async def main():
        task = asyncio.create_task(layer.receive_async({"http.response!", "a"}))
        await until_waiting(layer, "http.response!", 1)
        layer.send("http.response!abc", {"n": 1})
        assert await within(task) == ("http.response!abc", {"n": 1})
        layer.send("a", {"n": 2})
        assert await within(layer.receive_async(name for name in ("a", "b"))) == ("a", {"n": 2})
        assert await within(layer.receive_async([])) == (None, None)
        with pytest.raises(TypeError, match=r"receive from the whole inbox, 'http\.response!'"):
            await layer.receive_async(["http.response!abc"])
        with pytest.raises(TypeError, match="must be a list of channel names"):
            await layer.receive_async("a")

    asyncio.run(main())


def test_receive_async_serves_all_channels(make_layer):
    layer = make_layer()

    async def main():
        for name in "abc":
            for _ in range(100):
                layer.send(name, {})
        firsts = [(await layer.receive_async(["a", "b", "c"]))[0] for _ in range(90)]
        assert min(firsts.count(name) for name in "abc") > 5

    asyncio.run(main())


# -- inboxes -------------------------------------------------------------------------------------------------


def test_each_socket_has_its_own_capacity_after_new_channel(make_async, make_layer):
    """A full channel of one socket does not affect others, for both front ends as senders."""
    layer, script = make_async(capacity=5), make_layer(capacity=5)

    async def main():
        slow, quick = await layer.new_channel(), await layer.new_channel()
        for sender in (script, layer._layer):
            for _ in range(5 if sender is script else 0):
                sender.send(slow, {})
            with pytest.raises(ChannelFull):
                sender.send(slow, {})
        for number in range(50):
            script.send(quick, {"n": number})
            assert await within(layer.receive(quick)) == {"n": number}

    asyncio.run(main())


def test_each_socket_has_its_own_capacity_after_a_receive_from_a_full_name(make_async, make_layer):
    """Names that ``new_channel`` has not made share one capacity until a full name is received from."""
    layer, script = make_async(capacity=5), make_layer(capacity=5)

    async def main():
        for number in range(5):
            script.send(f"by.hand!{number}", {})
        with pytest.raises(ChannelFull):
            script.send("by.hand!5", {})
        assert await within(layer.receive("by.hand!0")) == {}
        for number in range(5, 30):
            script.send(f"by.hand!{number}", {})

    asyncio.run(main())


def test_channels_of_a_synchronous_inbox_share_one_capacity(make_layer):
    layer = make_layer(capacity=3)
    assert layer.receive(["by.hand!"]) == (None, None)
    for number in range(3):
        layer.send(f"by.hand!{number}", {})
    with pytest.raises(ChannelFull):
        layer.send("by.hand!3", {})


# -- the exceptions of Channels ------------------------------------------------------------------------------


def report_exceptions(talk, prefix):
    """Run in a child: report whether the errors are instances of Channels' exceptions."""
    from channels import exceptions as theirs

    layer = AsyncIPCChannelLayer(prefix, capacity=1, **OPTIONS)

    async def fill():
        await layer.send("a", {})
        await layer.send("a", {})

    async def large():
        await layer.send("b", {"": b"x" * (1 << 21)})

    def store_full():
        small = IPCChannelLayer(f"{prefix}s", capacity=10**6, message_memory=1 << 16, group_memory=1 << 16)
        try:
            while True:
                small.send("a", {"": b"x" * 1000})
        finally:
            small.unlink()
            small.close()

    found: list[Any] = []
    for call, names in (
        (lambda: asyncio.run(fill()), ["ChannelFull"]),
        (lambda: asyncio.run(large()), ["MessageTooLarge"]),
        (store_full, ["ChannelFull"]),
    ):
        try:
            call()
        except Exception as error:
            copy = pickle.loads(pickle.dumps(error))
            found.append(
                [
                    type(error).__name__,
                    [
                        isinstance(error, kind)
                        for name in names
                        for kind in (getattr(theirs, name), getattr(layer, name), getattr(IPCChannelLayer, name))
                    ],
                    (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error)),
                    isinstance(copy, getattr(theirs, names[0])),
                ]
            )
    talk.say(found)
    AsyncIPCChannelLayer(prefix, **OPTIONS)  # a second layer changes nothing
    talk.say([kind.__name__ for kind in ChannelFull.__mro__])


def test_exceptions_are_those_of_channels(prefix, start):
    exceptions = pytest.importorskip("channels.exceptions", reason="needs Channels 2 or later")
    if not hasattr(exceptions, "ChannelFull"):
        pytest.skip("needs Channels 2 or later: this one has no ChannelFull")
    child = start(report_exceptions, prefix)
    assert child.hear() == [
        ["ChannelFull", [True, True, True], True, True],
        ["MessageTooLarge", [True, True, True], True, True],
        ["MemoryFull", [True, True, True], True, True],
    ]
    assert child.hear() == ["ChannelFull", "Refusal", "ChannelFull", "Exception", "BaseException", "object"]
    child.end()


def test_exceptions_can_be_pickled(make_async):
    layer = make_async(capacity=1)

    async def main():
        await layer.send("a", {})
        with pytest.raises(layer.ChannelFull) as full:
            await layer.send("a", {})
        with pytest.raises(layer.MessageTooLarge) as large:
            await layer.send("b", {"": b"x" * (1 << 21)})
        return full.value, large.value

    full, large = asyncio.run(main())
    for error in (full, large, MemoryFull("a", "s", 1, 1, 1, "memory")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
    assert isinstance(full, ChannelFull)
    assert isinstance(large, MessageTooLarge)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"prefix": None}, TypeError, "prefix"),
        ({"prefix": "a/b"}, ValueError, "prefix"),
        ({"capacity": 0}, ValueError, "capacity"),
        ({"expiry": "60"}, TypeError, "expiry"),
        ({"channel_capacity": {"a": "b"}}, (TypeError, ValueError), "channel_capacity"),
        ({"channel_capacity": [1]}, (TypeError, ValueError), "channel_capacity"),
        ({"channel_capacity": {7: 1}}, (TypeError, ValueError), "channel_capacity"),
        ({"mode": 0o777}, ValueError, "mode"),
        ({"symmetric_encryption_keys": ["x"]}, TypeError, "symmetric_encryption_keys"),
        ({"hosts": []}, TypeError, "hosts"),
        ({"block_timeout": 5}, TypeError, "block_timeout"),
    ],
)
def test_errors_for_wrong_options_name_the_option_and_are_no_key_errors(prefix, options, error, why):
    """Channels takes a ``KeyError`` for "no layer is configured"."""
    with pytest.raises(error, match=why) as refusal:
        AsyncIPCChannelLayer(**{"prefix": prefix, **options})
    assert not isinstance(refusal.value, KeyError)
