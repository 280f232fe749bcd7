"""Queues for programs that only pass messages between processes: no groups, no expiry, no capacity."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import time
from typing import Any, Callable, Dict, Tuple

import msgpack

from .base import CHANNELS, Message, SyncPeer

#: Bytes that a queue with a fixed size can hold.
SIZE = 512 * 1024 * 1024
#: Seconds between polls of a peer that cannot wait. A sleep of this length takes about twice as long.
PAUSE = 0.00005
#: Timeout in seconds for a message, or for a database that another process uses.
FOREVER = 3600


class Queues(SyncPeer):
    """``multiprocessing.Queue``, one for each channel."""

    def prepare(self) -> None:
        self.queues: Dict[str, Any] = {channel: multiprocessing.Queue() for channel in CHANNELS}

    def sender(self, channel: str) -> Callable[[Message], Any]:
        put: Callable[[Message], Any] = self.queues[channel].put
        return put

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        get: Callable[[], Any] = self.queues[channel].get
        return get


class Pipes(SyncPeer):
    """``multiprocessing.Pipe``, one for each channel."""

    def prepare(self) -> None:
        self.pipes: Dict[str, Tuple[Any, Any]] = {channel: multiprocessing.Pipe(duplex=False) for channel in CHANNELS}

    def sender(self, channel: str) -> Callable[[Message], Any]:
        put: Callable[[Message], Any] = self.pipes[channel][1].send
        return put

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        get: Callable[[], Any] = self.pipes[channel][0].recv
        return get


class FasterFifo(SyncPeer):
    """``faster_fifo.Queue``, one for each channel."""

    def prepare(self) -> None:
        import faster_fifo

        self.queues = {channel: faster_fifo.Queue(SIZE // 4) for channel in CHANNELS}

    def sender(self, channel: str) -> Callable[[Message], Any]:
        put: Callable[[Message], Any] = self.queues[channel].put
        return put

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        get = self.queues[channel].get
        return lambda: get(True, FOREVER)


class Database(SyncPeer):
    """A queue in a database in memory. It cannot wait, so a receiver polls."""

    @property
    def folder(self) -> str:
        return os.path.join(self.place.folder, self.place.prefix)

    def prepare(self) -> None:
        os.makedirs(self.folder, exist_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def popper(self, channel: str) -> Callable[[], Any]:
        """Return a function that takes a message, or returns None."""
        raise NotImplementedError

    def receiver(self, channel: str, wait: bool) -> Callable[[], Any]:
        pop = self.popper(channel)
        if not wait:
            return pop

        def waiting() -> Any:
            while True:
                message = pop()
                if message is not None:
                    return message
                time.sleep(PAUSE)

        return waiting


class LMDB(Database):
    """A queue in LMDB: a key is a channel and a time; without sync, in a map that is written to."""

    def open(self) -> None:
        import lmdb

        self.store = lmdb.open(self.folder, map_size=2 * SIZE, sync=False, metasync=False, writemap=True)

    def close(self) -> None:
        self.store.close()

    def sender(self, channel: str) -> Callable[[Message], Any]:
        begin, prefix, now = self.store.begin, channel.encode() + b"\0", time.monotonic_ns

        def send(message: Message) -> None:
            body = msgpack.packb(message)
            with begin(write=True) as transaction:
                transaction.put(prefix + now().to_bytes(8, "big"), body)

        return send

    def popper(self, channel: str) -> Callable[[], Any]:
        begin, prefix = self.store.begin, channel.encode() + b"\0"

        def pop() -> Any:
            with begin(write=True) as transaction:
                cursor = transaction.cursor()
                if not cursor.set_range(prefix):
                    return None
                key = cursor.key()
                if not key.startswith(prefix):
                    return None
                body = cursor.pop(key)
            return msgpack.unpackb(body)

        return pop


class SQLite(Database):
    """A queue in SQLite: a row is a message; without sync, with a write-ahead log."""

    def prepare(self) -> None:
        super().prepare()
        self.open()
        self.store.execute("PRAGMA journal_mode = WAL")
        self.store.execute("CREATE TABLE message (number INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT, body BLOB)")
        self.store.execute("CREATE INDEX by_channel ON message (channel, number)")
        self.close()

    def open(self) -> None:
        self.store = sqlite3.connect(os.path.join(self.folder, "queue"), isolation_level=None, timeout=FOREVER)
        self.store.execute("PRAGMA synchronous = OFF")

    def close(self) -> None:
        self.store.close()

    def sender(self, channel: str) -> Callable[[Message], Any]:
        execute = self.store.execute

        def send(message: Message) -> None:
            execute("INSERT INTO message (channel, body) VALUES (?, ?)", (channel, msgpack.packb(message)))

        return send

    def popper(self, channel: str) -> Callable[[], Any]:
        execute = self.store.execute

        def pop() -> Any:
            rows = execute(
                "DELETE FROM message WHERE number = (SELECT min(number) FROM message WHERE channel = ?) RETURNING body",
                (channel,),
            ).fetchall()
            return msgpack.unpackb(rows[0][0]) if rows else None

        return pop
