"""WebSockets in groups, with several Daphne and worker processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from asgi_ipc import IPCChannelLayer

from .servers import Site
from .waiting import until


def test_groups_across_processes(site: Site, script: IPCChannelLayer) -> None:
    """Messages of sockets, pages and scripts reach every socket in order, across Daphne processes."""
    daphnes = [site.daphne(), site.daphne()]
    workers = {site.worker().pid, site.worker().pid}
    with daphnes[0].socket("/room/red/") as first, daphnes[1].socket("/room/red/") as second:
        for client in (first, second):
            assert client.receive() == {"hello": ""}
        for number in range(20):
            (first if number % 2 else second).send(f"message {number}")
            for client in (first, second):
                received = client.receive()
                assert received["text"] == f"message {number}"
                assert received["pid"] in workers

        # From a page, and from a process without Channels.
        daphnes[1].page("/post/red/?text=hello")
        script.send_group("room-red", {"text": json.dumps({"script": "hello"})})
        for client in (first, second):
            received = [client.receive() for _ in range(3)]
            for expected in ({"page": "hello"}, {"script": "hello"}, {"job": "hello"}):
                assert any(expected.items() <= one.items() for one in received), (expected, received)


def test_bytes_stay_bytes(site: Site) -> None:
    """A binary message arrives as bytes, complete."""
    daphne, _ = site.daphne(), site.worker()
    content = bytes(range(256)) * 3000
    with daphne.socket("/room/blue/") as client:
        client.receive()
        client.send_bytes(content)
        assert client.receive_bytes() == content


def test_a_closed_socket_leaves_its_group(site: Site, script: IPCChannelLayer) -> None:
    """Rooms are separate, and a socket that closes leaves its group."""
    daphne, _ = site.daphne(), site.worker()
    with daphne.socket("/room/red/") as red, daphne.socket("/room/blue/") as blue:
        red.receive()
        blue.receive()
        with daphne.socket("/room/red/") as third:
            third.receive()
            assert len(script.group_channels("room-red")) == 2
        until(lambda: len(script.group_channels("room-red")) == 1)
        red.send("only for red")
        blue.send("only for blue")
        assert red.receive()["text"] == "only for red"
        assert blue.receive()["text"] == "only for blue"


def test_sockets_of_a_killed_daphne_leave_their_groups(site: Site, script: IPCChannelLayer) -> None:
    """A killed Daphne cannot discard its sockets from their groups: the layer does. Other sockets work."""
    daphnes = [site.daphne(), site.daphne()]
    site.worker()
    with daphnes[0].socket("/room/red/") as killed, daphnes[1].socket("/room/red/") as other:
        killed.receive()
        other.receive()
        assert len(script.group_channels("room-red")) == 2
        daphnes[0].die()
        assert len(script.group_channels("room-red")) == 1
        for number in range(3):
            other.send(str(number))
            assert other.receive()["text"] == str(number)


def test_ordering_over_several_workers(site: Site) -> None:
    """Channels keeps the order of a socket's messages across workers, by sessions and ``?`` channels."""
    daphne = site.daphne()
    for _ in range(3):
        site.worker()
    with daphne.socket("/ordered/") as client:
        for number in range(60):
            client.send(str(number))
        received: list[Any] = [client.receive() for _ in range(60)]
    assert [one["text"] for one in received] == [str(number) for number in range(60)]


def test_a_room_of_many_sockets(make_site: Callable[..., Site], script: IPCChannelLayer) -> None:
    """
    A group send reaches 120 sockets of one Daphne if the capacity is large enough.

    The capacity applies to all sockets of one Daphne 1 together, since they share an inbox.
    """
    site = make_site(options={"channel_capacity": {"daphne.response.*": 1000}})
    daphne, _ = site.daphne(), site.worker("--threads", "4")
    with ExitStack() as stack:
        clients = [stack.enter_context(daphne.socket("/room/red/")) for _ in range(120)]
        for client in clients:
            client.receive()
        assert len(script.group_channels("room-red")) == 120
        for number in range(3):
            clients[number].send(str(number))
            for client in clients:
                assert client.receive()["text"] == str(number)


def test_slow_members_are_skipped(site: Site, script: IPCChannelLayer) -> None:
    """A sender that is too fast for a group's sockets skips some messages; it neither waits nor fails."""
    daphne, _ = site.daphne(), site.worker()
    with daphne.socket("/room/red/") as client:
        client.receive()
        for number in range(1000):
            script.send_group("room-red", {"text": json.dumps(number)})
        until(lambda: not script.global_statistics()["messages_pending"])
        script.send_group("room-red", {"text": json.dumps("last")})
        received = []
        while "last" not in received:
            received.append(client.receive())
    numbers = received[:-1]
    assert numbers == sorted(numbers)
    assert 100 <= len(numbers) <= 1000
