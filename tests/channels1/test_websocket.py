"""WebSockets in groups, over several processes that serve them and several that work for them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any, Callable, List

from asgi_ipc import IPCChannelLayer

from .servers import Site
from .waiting import until


def test_groups_across_processes(site: Site, script: IPCChannelLayer) -> None:
    """What one says, all hear in its order, on whichever Daphne they are; so with pages and scripts."""
    daphnes = [site.daphne(), site.daphne()]
    workers = {site.worker().pid, site.worker().pid}
    with daphnes[0].socket("/room/red/") as first, daphnes[1].socket("/room/red/") as second:
        for client in (first, second):
            assert client.hear() == {"hello": ""}
        for number in range(20):
            (first if number % 2 else second).say(f"message {number}")
            for client in (first, second):
                heard = client.hear()
                assert heard["text"] == f"message {number}"
                assert heard["pid"] in workers

        # From a page, and from a process that knows nothing of Channels.
        daphnes[1].page("/post/red/?text=hello")
        script.send_group("room-red", {"text": json.dumps({"script": "hello"})})
        for client in (first, second):
            heard = [client.hear() for _ in range(3)]
            for said in ({"page": "hello"}, {"script": "hello"}, {"job": "hello"}):
                assert any(said.items() <= one.items() for one in heard), (said, heard)


def test_bytes_stay_bytes(site: Site) -> None:
    """A message of bytes comes out as bytes, at its full length."""
    daphne, _ = site.daphne(), site.worker()
    content = bytes(range(256)) * 3000
    with daphne.socket("/room/blue/") as client:
        client.hear()
        client.say_bytes(content)
        assert client.hear_bytes() == content


def test_who_leaves_hears_nothing_more(site: Site, script: IPCChannelLayer) -> None:
    """Rooms are apart, and a socket that closes leaves its group."""
    daphne, _ = site.daphne(), site.worker()
    with daphne.socket("/room/red/") as red, daphne.socket("/room/blue/") as blue:
        red.hear()
        blue.hear()
        with daphne.socket("/room/red/") as third:
            third.hear()
            assert len(script.group_channels("room-red")) == 2
        until(lambda: len(script.group_channels("room-red")) == 1)
        red.say("only for red")
        blue.say("only for blue")
        assert red.hear()["text"] == "only for red"
        assert blue.hear()["text"] == "only for blue"


def test_sockets_of_a_killed_daphne_leave(site: Site, script: IPCChannelLayer) -> None:
    """When Daphne is killed nobody says goodbye for its sockets: the layer does, and the others go on."""
    daphnes = [site.daphne(), site.daphne()]
    site.worker()
    with daphnes[0].socket("/room/red/") as doomed, daphnes[1].socket("/room/red/") as other:
        doomed.hear()
        other.hear()
        assert len(script.group_channels("room-red")) == 2
        daphnes[0].die()
        assert len(script.group_channels("room-red")) == 1
        for number in range(3):
            other.say(str(number))
            assert other.hear()["text"] == str(number)


def test_ordering_over_several_workers(site: Site) -> None:
    """Channels keeps a socket's order with sessions and ``?`` channels, whoever takes which message."""
    daphne = site.daphne()
    for _ in range(3):
        site.worker()
    with daphne.socket("/ordered/") as client:
        for number in range(60):
            client.say(str(number))
        heard: List[Any] = [client.hear() for _ in range(60)]
    assert [one["text"] for one in heard] == [str(number) for number in range(60)]


def test_a_room_of_many(make_site: Callable[..., Site], script: IPCChannelLayer) -> None:
    """
    All sockets of one Daphne 1 count as one channel, whose capacity says how many messages may wait for them together:
    with a capacity to match, everybody hears everything.
    """
    site = make_site(options={"channel_capacity": {"daphne.response.*": 1000}})
    daphne, _ = site.daphne(), site.worker("--threads", "4")
    with ExitStack() as stack:
        clients = [stack.enter_context(daphne.socket("/room/red/")) for _ in range(120)]
        for client in clients:
            client.hear()
        assert len(script.group_channels("room-red")) == 120
        for number in range(3):
            clients[number].say(str(number))
            for client in clients:
                assert client.hear()["text"] == str(number)


def test_members_that_are_slow(site: Site, script: IPCChannelLayer) -> None:
    """A sender that is too fast for a group's sockets skips some; it never waits, fails, or mixes them up."""
    daphne, _ = site.daphne(), site.worker()
    with daphne.socket("/room/red/") as client:
        client.hear()
        for number in range(1000):
            script.send_group("room-red", {"text": json.dumps(number)})
        until(lambda: not script.global_statistics()["messages_pending"])
        script.send_group("room-red", {"text": json.dumps("last")})
        heard = []
        while "last" not in heard:
            heard.append(client.hear())
    numbers = heard[:-1]
    assert numbers == sorted(numbers)
    assert 100 <= len(numbers) <= 1000
