"""
The whole public API as a typed program uses it. It is never run, only checked by ``mypy --strict``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, Dict, List, Optional, Tuple, Type

import asgi_ipc
from asgi_ipc import (
    AsyncIPCChannelLayer,
    ChannelFull,
    GroupStoreFull,
    IPCChannelLayer,
    MemoryFull,
    MessageTooLarge,
    SegmentBusy,
    SegmentCorrupt,
    SegmentError,
    SegmentGone,
    SegmentMismatch,
    SegmentRefused,
    TooManyProcesses,
)

version: str = asgi_ipc.__version__


def make_layers() -> List[IPCChannelLayer]:
    by_position = IPCChannelLayer(
        "asgi", 60, 86400, 100, {"http.request": 200}, 200 * 1024 * 1024, 1024 * 1024
    )
    by_keyword = IPCChannelLayer(
        prefix="asgi",
        expiry=0.5,
        group_expiry=3600.0,
        capacity=10,
        channel_capacity={"http.response!*": 10, re.compile(r"^websocket.send\!.+"): 20},
        message_memory=1024 * 1024,
        group_memory=1024 * 1024,
        mode=0o660,
        message_limit=None,
        patience=2.5,
        block_timeout=0.5,
    )
    ordered = IPCChannelLayer(channel_capacity=OrderedDict([("a*", 1), ("*", 2)]))
    return [by_position, by_keyword, ordered, IPCChannelLayer(message_limit=4096)]


def messages(layer: IPCChannelLayer) -> None:
    layer.send(
        "channel", {"text": "hello", "bytes": b"", "list": [1, 2.0, None, True], "dict": {"key": "value"}}
    )
    channel: Optional[str]
    message: Optional[Dict[str, Any]]
    channel, message = layer.receive(["channel", "inbox!"])
    channel, message = layer.receive({"channel"}, block=True)
    channel, message = layer.receive(name for name in ("a", "b"))
    channel, message = layer.receive_many(("channel",))
    if channel is not None and message is not None:
        layer.send(channel.upper(), message)
    name: str = layer.new_channel("reply?")
    layer.send(name, {})


async def asynchronous_layer(options: Dict[str, Any]) -> None:
    by_position = AsyncIPCChannelLayer("asgi", 60, 86400, 100, {"http.request": 200}, 1024 * 1024, 1024 * 1024)
    by_keyword = AsyncIPCChannelLayer(
        prefix="asgi",
        expiry=0.5,
        group_expiry=3600.0,
        capacity=10,
        channel_capacity={re.compile(r"^specific\..+"): 20},
        message_memory=1024 * 1024,
        group_memory=1024 * 1024,
        mode=0o660,
        message_limit=4096,
        patience=2.5,
    )
    async with AsyncIPCChannelLayer(**options) as layer:
        entered: AsyncIPCChannelLayer = layer
        name: str = await entered.new_channel()
        name = await entered.new_channel(prefix="websocket")
        await entered.send(name, {"text": "hello", "bytes": b"", "list": [1, 2.0, None, True]})
        message: Dict[str, Any] = await entered.receive(name)
        await entered.group_add("group", name)
        members: List[str] = await entered.group_channels("group")
        await entered.group_send("group", message)
        await entered.group_discard("group", members[0])
        await entered.flush()
    full: Type[ChannelFull] = by_position.ChannelFull
    large: Type[MessageTooLarge] = by_position.MessageTooLarge
    assert issubclass(full, Exception)
    assert issubclass(large, Exception)
    attributes_of_layer: Tuple[str, float, float, int, List[str]] = (
        by_keyword.prefix,
        by_keyword.expiry,
        by_keyword.group_expiry,
        by_keyword.capacity,
        by_keyword.extensions,
    )
    assert attributes_of_layer
    for each in (by_position, by_keyword):
        await each.close()
        await each.unlink()


async def receiving_elsewhere(layer: IPCChannelLayer) -> None:
    channel: Optional[str]
    message: Optional[Dict[str, Any]]
    channel, message = await layer.receive_async(["channel", "inbox!"])
    channel, message = await layer.receive_async({"channel"})
    if channel is not None and message is not None:
        layer.send(channel, message)
    layer.receive_twisted(["channel"]).addCallback(print)


def groups(layer: IPCChannelLayer) -> List[str]:
    layer.group_add("group", "channel")
    layer.group_discard("group", "channel")
    layer.send_group("group", {"text": "hello"})
    members: List[str] = layer.group_channels("group")
    return members


def whole_layer() -> Dict[str, float]:
    with IPCChannelLayer() as layer:
        entered: IPCChannelLayer = layer
        entered.flush()
        figures: Dict[str, float] = {**layer.global_statistics(), **layer.channel_statistics("channel")}
    layer.close()
    layer.unlink()
    return figures


def attributes(layer: IPCChannelLayer) -> Tuple[str, float, float, int, List[str]]:
    full: Type[ChannelFull] = layer.ChannelFull
    large: Type[MessageTooLarge] = layer.MessageTooLarge
    assert issubclass(full, Exception)
    assert issubclass(large, Exception)
    return layer.prefix, layer.expiry, layer.group_expiry, layer.capacity, layer.extensions


def helpers(layer: IPCChannelLayer) -> bool:
    limit: int = layer.get_capacity("channel")
    compiled: List[Tuple[Any, int]] = layer.compile_capacities({"glob*": 5})
    inbox: str = layer.non_local_name("inbox!channel")
    valid: bool = layer.valid_channel_name("channel") and layer.valid_channel_name("inbox!", receive=True)
    valid = (
        valid
        and layer.valid_channel_names(["channel"])
        and layer.valid_channel_names(["inbox!"], receive=True)
    )
    valid = valid and layer.valid_group_name("group") and layer.match_type_and_length("name")
    return valid and limit > 0 and bool(compiled) and inbox == "inbox!"


def errors(layer: IPCChannelLayer) -> str:
    try:
        layer.send("channel", {})
        layer.group_add("group", "channel")
    except MemoryFull as error:
        return f"{error.channel} {error.segment} {error.size + error.used} {error.reason}"
    except GroupStoreFull as error:
        return f"{error.group} {error.channel} {error.segment} {error.size} {error.reason}"
    except ChannelFull as error:
        count: Optional[int] = error.count
        capacity: Optional[int] = error.capacity
        return f"{error.channel} {count} {capacity}"
    except MessageTooLarge as error:
        channel: Optional[str] = error.channel
        return f"{error.size - error.limit} {channel}"
    except SegmentBusy as error:
        pid: Optional[int] = error.pid
        return f"{error.segment} {pid} {error.seconds}"
    except TooManyProcesses as error:
        return f"{error.segment} {error.limit}"
    except (SegmentCorrupt, SegmentGone, SegmentMismatch, SegmentRefused) as error:
        return f"{error.segment} {error.why}"
    except SegmentError as error:
        return error.segment
    return ""
