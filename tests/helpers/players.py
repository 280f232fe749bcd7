"""Processes that exchange messages over both front ends. This module needs only the package."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

from .processes import Talk
from .waiting import OPTIONS

#: The content of every message: each type that a message may hold.
EVERYTHING: dict[str, Any] = {
    "text": "Zażółć 😀",
    "bytes": b"\x00\xff",
    "numbers": [0, -(2**63), 2**64 - 1, 0.5, -0.0],
    "rest": {"none": None, "yes": True, "no": False, "empty": {}},
}


def version(talk: Talk) -> None:
    """Send the version of this Python."""
    talk.say("{}.{}".format(*sys.version_info))


def echo_sync(talk: Talk, prefix: str, own: str) -> None:
    """
    Block in ``receive`` on the channel ``own`` and an inbox, and answer to the channel that a message names.

    The first message without a reply channel ends it.
    """
    with IPCChannelLayer(prefix, block_timeout=3600, **OPTIONS) as layer:
        inbox = f"{own}.inbox!"
        layer.group_add("all", f"{inbox}x")
        talk.say("ready")
        while True:
            channel, message = layer.receive([own, inbox], block=True)
            assert message is not None
            if "reply" not in message:
                break
            assert message["everything"] == EVERYTHING
            layer.send(message["reply"], {"n": message["n"], "through": channel, "everything": message["everything"]})
    talk.say("done")


def echo_async(talk: Talk, prefix: str, own: str) -> None:
    """Do the same in an event loop; the group's member is a name made by ``new_channel``."""

    async def echo(layer: AsyncIPCChannelLayer, channel: str) -> None:
        while True:
            message = await layer.receive(channel)
            if "reply" not in message:
                return
            assert message["everything"] == EVERYTHING
            answer = {"n": message["n"], "through": channel, "everything": message["everything"]}
            await layer.send(message["reply"], answer)

    async def main() -> None:
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            name = await layer.new_channel()
            await layer.group_add("all", name)
            talk.say("ready")
            await asyncio.gather(echo(layer, own), echo(layer, name))

    asyncio.run(main())
    talk.say("done")


def ask_sync(talk: Talk, prefix: str, others: Any, rounds: int) -> None:
    """Ask each of ``others`` by ``send`` and all by ``send_group``, ``rounds`` times; then end them."""
    with IPCChannelLayer(prefix, block_timeout=3600, **OPTIONS) as layer:
        reply = layer.new_channel("reply?")

        def answer(number: int) -> Any:
            _, message = layer.receive([reply], block=True)
            assert message == {"n": number, "through": message["through"], "everything": EVERYTHING}  # type: ignore[index]
            return message["through"]

        for number in range(rounds):
            ask = {"n": number, "reply": reply, "everything": EVERYTHING}
            for other in others:
                layer.send(other, ask)
                assert answer(number) == other
            layer.send_group("all", ask)
            members = layer.group_channels("all")
            assert sorted(answer(number) for _ in members) == sorted(members)
        talk.say(len(members))
        for other in others:
            layer.send(other, {})
        layer.send_group("all", {})


def ask_async(talk: Talk, prefix: str, others: Any, rounds: int) -> None:
    """Do the same in an event loop."""

    async def main() -> None:
        async with AsyncIPCChannelLayer(prefix, **OPTIONS) as layer:
            reply = await layer.new_channel()

            async def answer(number: int) -> Any:
                message = await layer.receive(reply)
                assert message == {"n": number, "through": message["through"], "everything": EVERYTHING}
                return message["through"]

            for number in range(rounds):
                ask = {"n": number, "reply": reply, "everything": EVERYTHING}
                for other in others:
                    await layer.send(other, ask)
                    assert await answer(number) == other
                await layer.group_send("all", ask)
                members = await layer.group_channels("all")
                assert sorted([await answer(number) for _ in members]) == sorted(members)
            talk.say(len(members))
            for other in others:
                await layer.send(other, {})
            await layer.group_send("all", {})

    asyncio.run(main())


ECHO: dict[str, Callable[..., None]] = {"sync": echo_sync, "async": echo_async}
ASK: dict[str, Callable[..., None]] = {"sync": ask_sync, "async": ask_async}
