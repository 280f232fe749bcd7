"""Unfinished and partly removed segments, semaphores without a segment, and locks in a separate file."""

from __future__ import annotations

import os
import secrets
import stat
import struct
import tempfile
import time

import posix_ipc
import pytest
from helpers.layers import drain, state
from helpers.segments import (
    GROUP_SIZE,
    KINDS,
    OTHER_USER,
    SIZE,
    assert_mismatch,
    assert_works,
    kinds,
    memory_objects,
    needs_files,
    objects,
    path_of,
    raise_in_critical_sections,
    write,
)

from asgi_ipc import IPCChannelLayer, SegmentBusy, SegmentRefused
from asgi_ipc.shm import layout, segment, semaphores
from asgi_ipc.shm.semaphores import HASH_BYTES, STICKY_MARK, UNFINISHED_AGE
from asgi_ipc.stores.messages.sweep import FILE_SWEEP_PAUSE

pytestmark = needs_files


# -- unfinished and partly removed segments --

UNFINISHED = {
    "empty": b"",
    "sized": bytes(SIZE),
    "of_another_size": bytes(SIZE * 3),
    "filled_in": bytes(8) + secrets.token_bytes(SIZE - 8),
}


@kinds
@pytest.mark.parametrize("content", UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_segment_is_completed(prefix, make_layer, kind, content):
    """Its creator was killed before it wrote the magic number, so the rest of the content is meaningless."""
    write(path_of(prefix, kind), content)
    os.chmod(path_of(prefix, kind), 0)  # the creator had not set the mode either
    before = os.stat(path_of(prefix, kind)).st_ino
    layer = make_layer(message_memory=SIZE, group_memory=SIZE)
    assert_works(layer)
    found = os.stat(path_of(prefix, kind))
    assert (found.st_ino, found.st_size, stat.S_IMODE(found.st_mode)) == (before, SIZE, 0o600)
    assert state(layer) == ({}, {})


@kinds
def test_a_partly_removed_segment_is_removed_and_recreated(prefix, make_layer, kind):
    """The process that removed it was killed after it wrote the tombstone and before it unlinked the name."""
    layer = make_layer()
    layer.send("a", {})
    layer.group_add("g", "a")
    before = os.stat(path_of(prefix, kind)).st_ino
    layer.close()
    with open(path_of(prefix, kind), "r+b") as file:
        file.seek(layout.AT_EPOCH * layout.WORD)
        file.write(struct.pack("=Q", layout.TOMBSTONE))
    layer = make_layer()
    assert_works(layer)
    assert state(layer)[KINDS.index(kind)] == {}
    assert os.stat(path_of(prefix, kind)).st_ino != before
    assert len(objects(prefix)) == 5  # the semaphore of the old segment was removed too
    layer.unlink()
    assert objects(prefix) == []


def test_creating_a_segment_removes_semaphores_without_a_segment(prefix, make_layer):
    """They remain when a segment's file is removed by hand. Semaphores of other prefixes are kept."""
    hashed = secrets.token_hex(HASH_BYTES)
    lost = [f"sem.{prefix}-messages.{which}" for which in (hashed, "0" * 2 * HASH_BYTES)]
    others = [
        f"sem.{prefix}-messages.{hashed[1:]}",
        f"sem.{prefix}-messages.{hashed}0",
        f"sem.{prefix}-messages.{hashed[1:]}x",
        f"sem.{prefix}2-messages.{hashed}",
        f"sem.{prefix}-messages.{hashed}-messages.{hashed}",
    ]
    for name in (*lost, *others):
        write(f"/dev/shm/{name}", bytes(32))
    assert_works(make_layer())
    found = objects(prefix)
    assert [name for name in lost if name in found] == []
    assert [name for name in others if name in found] == others


@pytest.fixture
def make_unfinished():
    """Make files with the temporary names that ``sem_open`` uses; all are removed after the test."""
    made = []

    def make(**how):
        path = f"/dev/shm/sem.{secrets.token_hex(3)}{how.get('suffix', '')}"
        made.append(path)
        write(path, bytes(32))
        os.chmod(path, how.get("mode", 0o600 | STICKY_MARK))
        if how.get("owner"):
            os.chown(path, how["owner"], -1)
        then = time.time() - how.get("age", UNFINISHED_AGE + 60)
        os.utime(path, (then, then))
        return path

    yield make
    for path in made:
        if os.path.exists(path):
            os.unlink(path)


def test_unfinished_semaphores_are_removed_and_nothing_else(make_layer, make_unfinished):
    """A process killed in ``sem_open`` leaves a file with the sticky bit that is soon several seconds old."""
    unfinished = [make_unfinished(), make_unfinished(mode=0o660 | STICKY_MARK)]
    others = [make_unfinished(mode=0o600), make_unfinished(age=0), make_unfinished(suffix="x")]
    if os.geteuid() == 0:
        others.append(make_unfinished(owner=OTHER_USER))
    assert_works(make_layer())
    assert [path for path in unfinished if os.path.exists(path)] == []
    assert [path for path in others if os.path.exists(path)] == others


def test_a_sweep_removes_unfinished_semaphores(make_layer, make_unfinished):
    """A process can be killed in ``sem_open`` during a recovery, and the segment goes on for months."""
    layer = make_layer()
    assert_works(layer)
    path = make_unfinished()
    store = layer.message_store
    store._sweep(store.sections.clock() + FILE_SWEEP_PAUSE)
    assert not os.path.exists(path)


def test_every_semaphore_is_created_with_the_sticky_bit_and_loses_it(prefix, make_layer, monkeypatch):
    """Otherwise the sweep would remove a semaphore in use that happens to have such a name."""
    created_modes = []
    real = posix_ipc.Semaphore

    def recording(name, *args, **kwargs):
        if "mode" in kwargs:
            created_modes.append(kwargs["mode"])
        return real(name, *args, **kwargs)

    monkeypatch.setattr(semaphores.posix_ipc, "Semaphore", recording)
    raise_in_critical_sections(make_layer())
    assert len(created_modes) == 4
    assert all(mode & STICKY_MARK for mode in created_modes)
    assert [name for name in memory_objects(prefix) if os.stat(f"/dev/shm/{name}").st_mode & STICKY_MARK] == []


# -- locks in a separate file --


def use_lock_file(directory):
    """Behave as on a system that cannot lock shared memory."""
    segment.LOCKS_IN_FILE = True
    tempfile.tempdir = directory


def serve_with_lock_file(talk, prefix, directory, patience):
    """Run in a child: use the layer or hold the mutex when told to, with the locks in a separate file."""
    use_lock_file(directory)
    with IPCChannelLayer(prefix, message_memory=SIZE, group_memory=GROUP_SIZE, patience=patience) as layer:
        while True:
            talk.say(os.getpid())
            command = talk.hear()
            if command is None:
                return
            if command == "hold":
                layer.message_store.sections.exclusively(lambda: (talk.say("inside"), talk.hear()))
                continue
            try:
                layer.send("a", {"from": os.getpid()})
            except SegmentBusy as busy:
                talk.say(["busy", busy.pid])


@pytest.fixture
def lock_directory(tmp_path, monkeypatch):
    """Use lock files in this process, and return their directory for the children."""
    monkeypatch.setattr(segment, "LOCKS_IN_FILE", True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return str(tmp_path)


def test_lock_files_prove_liveness(prefix, make_layer, start, lock_directory):
    layer = make_layer(patience=0.5)
    child = start(serve_with_lock_file, prefix, lock_directory, 10)
    pid = child.hear()
    child.say("work")
    assert child.hear() == pid
    assert layer.receive(["a"]) == ("a", {"from": pid})
    child.say("hold")
    child.hear()
    with pytest.raises(SegmentBusy) as busy:
        layer.send("a", {})
    assert busy.value.pid == pid
    child.die()
    assert_works(layer)
    assert sorted(os.listdir(lock_directory)) == [f"asgi_ipc-{prefix}-{kind}.lock" for kind in sorted(KINDS)]
    assert len(objects(prefix)) == 5


@pytest.mark.parametrize("how", ["close", "unlink"])
def test_closing_or_unlinking_one_layer_keeps_the_locks_of_another(prefix, make_layer, start, lock_directory, how):
    """Both layers use the same lock file, as does a removed segment that one of them still has attached."""
    first, second = make_layer(), make_layer()
    assert_works(first)
    if how == "unlink":
        first.unlink()
        assert_works(second)  # on a new segment, while the first layer still has the old one
        assert_works(first)  # the first layer detaches from the old segment
    first.close()
    child = start(serve_with_lock_file, prefix, lock_directory, 0.5)
    pid = child.hear()

    def hold():
        child.say("work")
        return child.hear()

    assert second.message_store.sections.exclusively(hold) == ["busy", os.getpid()]
    child.hear()
    child.say("work")
    assert child.hear() == pid
    assert drain(second, "a") == [("a", {"from": pid})]
    child.say(None)
    child.end()


@kinds
def test_a_replaced_lock_file_is_detected(prefix, make_layer, lock_directory, kind):
    make_layer().close()
    path = f"{lock_directory}/asgi_ipc-{prefix}-{kind}.lock"
    os.rename(path, path + ".old")
    assert_mismatch(prefix, kind, make_layer, "its lock file was replaced")


def test_a_lock_file_of_another_user_is_refused(prefix, make_layer, lock_directory):
    make_layer().close()
    path = f"{lock_directory}/asgi_ipc-{prefix}-messages.lock"
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, OTHER_USER, -1)
    with pytest.raises(SegmentRefused, match=f"its lock file {path} belongs to user {OTHER_USER}"):
        make_layer()
