"""
The peers: asgi_ipc, the alternatives, and the lower bounds ("floors").

This module contains only their names and what they lack. Adapters are imported in worker processes, because
they need packages that may not be installed.
"""

from __future__ import annotations

__all__ = ["PEERS", "Spec", "load"]

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, Tuple, Type

if TYPE_CHECKING:
    from .base import Peer

#: Why a peer is left out of workloads that need what it lacks.
ONE_PROCESS = "works only within one process"
NO_GROUPS = "no groups"
NO_CHANNELS = "a single queue, so no other channels in which messages could wait"
NOT_SHARED = "every receiver gets each message, so receivers cannot share the work"
KEEPS_NOTHING = "messages are lost if nobody listens yet"
PIPE_WRITERS = "only one writer and one reader at a time"
PIPE_FULL = "a pipe holds about 200 kB, so a larger message needs a second process that reads"
QUEUE = {"groups": NO_GROUPS, "channels": NO_CHANNELS}


@dataclass(frozen=True)
class Spec:
    """A peer: its name, its adapter, and what it needs."""

    title: str
    adapter: str  # module:class, in this package
    family: str  # for --peers, and for the colours in the pictures
    modules: Tuple[str, ...] = ()  # that must be importable
    packages: Tuple[str, ...] = ()  # whose versions are reported
    environment: str = "here"  # or "old": the environment that the suite makes
    server: str = ""  # how it connects to a Redis server: "tcp", "unix" or not at all
    lacks: Dict[str, str] = field(default_factory=dict)  # what a workload may need -> why the peer lacks it
    only: Tuple[str, ...] = ()  # the workloads that it takes part in; empty: all


CHANNELS_REDIS = ("channels_redis", "channels", "redis")
#: The peers by the names that the command line accepts.
PEERS: Dict[str, Spec] = {
    "asgi_ipc": Spec("asgi_ipc", "layer:Sync", "own", ("asgi_ipc",), ("posix_ipc", "msgpack")),
    "asgi_ipc-async": Spec("asgi_ipc, asynchronous", "layer:Async", "own", ("asgi_ipc",), ("posix_ipc", "msgpack")),
    "in-memory": Spec(
        "Channels' in-memory layer",
        "channels_layers:InMemory",
        "memory",
        ("channels",),
        ("channels",),
        lacks={"processes": ONE_PROCESS},
    ),
    "redis-core-tcp": Spec(
        "channels_redis, TCP",
        "channels_layers:RedisCoreTCP",
        "redis",
        ("channels_redis",),
        CHANNELS_REDIS,
        server="tcp",
    ),
    "redis-core-unix": Spec(
        "channels_redis, unix socket",
        "channels_layers:RedisCoreUnix",
        "redis",
        ("channels_redis",),
        CHANNELS_REDIS,
        server="unix",
    ),
    "redis-pubsub-tcp": Spec(
        "channels_redis pub/sub, TCP",
        "channels_layers:RedisPubSubTCP",
        "redis",
        ("channels_redis",),
        CHANNELS_REDIS,
        server="tcp",
        lacks={"sharing": NOT_SHARED, "channels": KEEPS_NOTHING},
    ),
    "redis-pubsub-unix": Spec(
        "channels_redis pub/sub, unix socket",
        "channels_layers:RedisPubSubUnix",
        "redis",
        ("channels_redis",),
        CHANNELS_REDIS,
        server="unix",
        lacks={"sharing": NOT_SHARED, "channels": KEEPS_NOTHING},
    ),
    "asgi_ipc-1.4": Spec(
        "asgi_ipc 1.4.2", "old:OldIPC", "old", ("asgi_ipc",), ("asgi_ipc", "msgpack", "posix_ipc"), "old"
    ),
    "asgi_redis-tcp": Spec(
        "asgi_redis 1.4.3, TCP", "old:OldRedisTCP", "old", ("asgi_redis",), ("asgi_redis", "redis"), "old", "tcp"
    ),
    "asgi_redis-unix": Spec(
        "asgi_redis 1.4.3, unix socket",
        "old:OldRedisUnix",
        "old",
        ("asgi_redis",),
        ("asgi_redis", "redis"),
        "old",
        "unix",
    ),
    "mp-queue": Spec("multiprocessing.Queue", "queues:Queues", "queue", lacks=QUEUE),
    "mp-pipe": Spec(
        "multiprocessing.Pipe",
        "queues:Pipes",
        "queue",
        lacks={**QUEUE, "sharing": PIPE_WRITERS, "writers": PIPE_WRITERS, "large": PIPE_FULL},
    ),
    "faster-fifo": Spec(
        "faster_fifo", "queues:FasterFifo", "queue", ("faster_fifo",), ("faster-fifo",), lacks=QUEUE
    ),
    "lmdb": Spec("LMDB queue", "queues:LMDB", "queue", ("lmdb",), ("lmdb",), lacks={"groups": NO_GROUPS}),
    "sqlite": Spec("SQLite queue", "queues:SQLite", "queue", lacks={"groups": NO_GROUPS}),
    "floor": Spec("lower bound: lock, msgpack, copies", "floors:Floor", "floor", only=("pair", "payload")),
    "floor-msgpack": Spec("lower bound: msgpack", "floors:Codec", "floor", only=("payload",)),
    "floor-memcpy": Spec("lower bound: copies", "floors:Copies", "floor", only=("payload",)),
    "floor-fifos": Spec("lower bound: two FIFOs", "floors:Fifos", "floor", only=("roundtrip",)),
    "floor-fifos-async": Spec("lower bound: two FIFOs, asyncio", "floors:AsyncFifos", "floor", only=("roundtrip",)),
}


def load(name: str) -> Type[Peer]:
    """Import and return the adapter of a peer. The packages that it needs must be installed."""
    module, _, what = PEERS[name].adapter.partition(":")
    adapter: Type[Peer] = getattr(importlib.import_module(f"{__name__}.{module}"), what)
    return adapter
