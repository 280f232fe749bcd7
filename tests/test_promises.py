"""The quantitative promises of asgi_ipc's README."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
from helpers.layers import assert_sound, drain, message_of, until_full

import asgi_ipc as asgi
from asgi_ipc import MemoryFull
from asgi_ipc.shm.layout import WORD
from asgi_ipc.stores.messages.channels import HEAD
from asgi_ipc.stores.messages.records import NEXT

MIB = 1024 * 1024
#: "The IPC routing metadata on top of each message is approximately 50 bytes."
METADATA = 50
#: "You can fit approximately 4000 group-channel membership associations into one megabyte of memory."
MEMBERSHIPS = 4000


def block_sizes(layer, channel):
    """Return the size in bytes of each pending message's block, including the allocator's header."""

    def section():
        attachment = layer.message_store.sections.opened()
        words = attachment.segment.words
        queues = layer.message_store.sections.parts.queues
        found = []
        message = words[queues.channels.find(channel) + HEAD]
        while message:
            found.append((words[message - 1] >> 2) * WORD)
            message = words[message + NEXT]
        return found

    return layer.message_store.sections.exclusively(section)


@pytest.mark.parametrize("size", [1, *range(4, 40), 100, 127, 128, 129, 500, 1023, 1039, 1040, 1041, 2000, 10_000])
def test_a_message_takes_at_most_fifty_bytes_besides_its_body(make_layer, size):
    """Also when several blocks are split at once, and when freed blocks of other sizes are reused."""
    layer, message = make_layer(capacity=10**6), message_of(size)
    for _ in range(2):
        for number in range(40):
            layer.send("a", message)
            layer.send("b", {"n": "x" * (number * 7)})
        taken = block_sizes(layer, "a")
        assert len(taken) == 40
        assert max(taken) <= size + METADATA
        drain(layer, "a", "b")
    assert_sound(layer)


@pytest.mark.parametrize("size", [1, 8, 50, 200, 1000])
def test_a_full_memory_has_at_most_fifty_bytes_besides_each_body(make_layer, size):
    """Measured from outside, in one MiB of which the fixed parts take about 32 KiB."""
    layer, message = make_layer(capacity=10**6), message_of(size)
    count, full = until_full(lambda _: layer.send("a", message))
    assert isinstance(full, MemoryFull)
    assert count >= (MIB - 48 * 1024) // (size + METADATA)


@pytest.mark.parametrize("mebibytes", [1, 4])
def test_messages_of_200_bytes_fill_90_percent_of_the_memory(make_layer, mebibytes):
    """Of the whole memory, including the fixed parts. The header of a message, 40 bytes, counts as used."""
    layer = make_layer(message_memory=mebibytes * MIB, capacity=10**6)
    message = message_of(200)
    for _ in range(2):
        count, _ = until_full(lambda _: layer.send("a", message))
        assert count * 240 >= 0.9 * mebibytes * MIB
        assert len(drain(layer, "a")) == count


def test_messages_may_have_one_mebibyte(make_layer):
    """Also if one MiB is an eighth of the memory."""
    layer = make_layer(message_memory=8 * MIB)
    message = message_of(MIB)
    count, _ = until_full(lambda _: layer.send("a", message))
    assert count == 7
    assert drain(layer, "a") == [("a", message)] * 7


@pytest.mark.parametrize("groups", [1, 100, MEMBERSHIPS])
def test_a_mebibyte_of_group_memory_holds_four_thousand_memberships(make_layer, groups):
    """Names have forty characters; all memberships are in one group, in a hundred, or each in its own."""
    layer = make_layer(group_memory=MIB)
    for _ in range(2):
        for number in range(MEMBERSHIPS):
            layer.group_add(f"group-{number % groups:034d}", f"websocket.send!{number:025d}")
        members = [len(layer.group_channels(f"group-{number:034d}")) for number in range(groups)]
        assert members == [MEMBERSHIPS // groups] * groups
        for number in range(MEMBERSHIPS):
            layer.group_discard(f"group-{number % groups:034d}", f"websocket.send!{number:025d}")
    assert_sound(layer)


def test_the_example_of_the_readme(prefix):
    channel_layer = asgi.IPCChannelLayer(
        prefix=prefix,
        message_memory=200 * 1024 * 1024,
    )
    channel_layer.send("my_channel", {"text": "Hello ASGI"})
    assert channel_layer.receive(["my_channel", ]) == ("my_channel", {"text": "Hello ASGI"})  # fmt: skip
    channel_layer.unlink()
    channel_layer.close()


def test_the_capacities_of_the_readme(make_layer):
    """200 for http.request, 10 for all http.response! channels and 20 for all websocket.send! channels."""
    layer = make_layer(
        channel_capacity={
            "http.request": 200,
            "http.response!*": 10,
            re.compile(r"^websocket.send\!.+"): 20,
        }
    )
    expected = {
        "http.request": 200,
        "http.response!abcdef": 10,
        "websocket.send!abcdef": 20,
        "http.request.body?abcdef": 100,
        "websocket.receive": 100,
    }
    assert {channel: until_full(lambda _, c=channel: layer.send(c, {}))[0] for channel in expected} == expected


def test_the_capacities_of_an_ordered_dict_are_tried_in_its_order(make_layer):
    patterns = [("http.*", 5), ("http.request", 7)]
    assert make_layer(channel_capacity=OrderedDict(patterns)).get_capacity("http.request") == 5
    assert make_layer(channel_capacity=OrderedDict(reversed(patterns))).get_capacity("http.request") == 7


def test_the_defaults_are_those_of_asgi_ipc_1(prefix):
    with asgi.IPCChannelLayer(prefix) as layer:
        sizes = [store.sections.opened().segment.size for store in (layer.message_store, layer.group_store)]
        assert sizes == [100 * MIB, 20 * MIB]
        assert (layer.expiry, layer.group_expiry, layer.capacity) == (60, 86400, 100)
        layer.unlink()
