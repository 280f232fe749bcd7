"""Segments half made and half removed, semaphores without a segment, and locks in a file of their own."""

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
    SIZE,
    STRANGER,
    assert_mismatch,
    break_off,
    kinds,
    needs_files,
    objects,
    path_of,
    works,
    write,
)

from asgi_ipc import IPCChannelLayer, SegmentBusy, SegmentRefused
from asgi_ipc.shm import layout, segment, semaphores
from asgi_ipc.shm.semaphores import STICKY_MARK, UNFINISHED_AGE

pytestmark = needs_files


# -- half made, half removed --

HALF_MADE = {
    "empty": b"",
    "sized": bytes(SIZE),
    "of_another_size": bytes(SIZE * 3),
    "filled_in": bytes(8) + secrets.token_bytes(SIZE - 8),
}


@kinds
@pytest.mark.parametrize("content", HALF_MADE.values(), ids=HALF_MADE)
def test_a_segment_that_nobody_finished_is_taken_over(prefix, make_layer, kind, content):
    """Its creator was killed before he wrote the magic: garbage behind it means nothing."""
    write(path_of(prefix, kind), content)
    os.chmod(path_of(prefix, kind), 0)  # nor set its mode
    before = os.stat(path_of(prefix, kind)).st_ino
    layer = make_layer(message_memory=SIZE, group_memory=SIZE)
    works(layer)
    found = os.stat(path_of(prefix, kind))
    assert (found.st_ino, found.st_size, stat.S_IMODE(found.st_mode)) == (before, SIZE, 0o600)
    assert state(layer) == ({}, {})


@kinds
def test_a_segment_that_was_half_removed_is_removed_and_made_anew(prefix, make_layer, kind):
    """Whoever removed it was killed between the tombstone and the name."""
    layer = make_layer()
    layer.send("a", {})
    layer.group_add("g", "a")
    before = os.stat(path_of(prefix, kind)).st_ino
    layer.close()
    with open(path_of(prefix, kind), "r+b") as file:
        file.seek(layout.AT_EPOCH * layout.WORD)
        file.write(struct.pack("=Q", layout.TOMBSTONE))
    layer = make_layer()
    works(layer)
    assert state(layer)[KINDS.index(kind)] == {}
    assert os.stat(path_of(prefix, kind)).st_ino != before
    assert len(objects(prefix)) == 4  # the semaphore of the old one is gone too
    layer.unlink()
    assert objects(prefix) == []


def test_lost_semaphores_go_with_the_next_creation(prefix, make_layer):
    """Of a segment whose file was removed by hand, say; those of other prefixes are left alone."""
    lost = [f"sem.{prefix}-messages.{which}" for which in ("abc123.2", "abc123.4", "f.1a")]
    others = [f"sem.{prefix}-messages.x.2", f"sem.{prefix}2-messages.abc123.2", f"sem.{prefix}-messages.1.2.3"]
    for name in (*lost, *others):
        write(f"/dev/shm/{name}", bytes(32))
    works(make_layer())
    found = objects(prefix)
    assert [name for name in lost if name in found] == []
    assert [name for name in others if name in found] == others


@pytest.fixture
def six():
    """Make files called as ``sem_open`` calls what it has not finished; removed after the test."""
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


def test_stillborn_semaphores_are_swept_and_nothing_else(make_layer, six):
    """What a process killed inside sem_open leaves behind bears our mark, and is seconds old."""
    stillborn = [six(), six(mode=0o660 | STICKY_MARK)]
    others = [six(mode=0o600), six(age=0), six(suffix="x")]
    if os.geteuid() == 0:
        others.append(six(owner=STRANGER))
    works(make_layer())
    assert [path for path in stillborn if os.path.exists(path)] == []
    assert [path for path in others if os.path.exists(path)] == others


def test_every_semaphore_is_born_with_the_mark_and_loses_it(prefix, make_layer, monkeypatch):
    """Or else the sweep would take semaphores in use, if one was ever called so."""
    born = []
    real = posix_ipc.Semaphore

    def watched(name, *args, **kwargs):
        if "mode" in kwargs:
            born.append(kwargs["mode"])
        return real(name, *args, **kwargs)

    monkeypatch.setattr(semaphores.posix_ipc, "Semaphore", watched)
    break_off(make_layer())
    assert len(born) == 4
    assert all(mode & STICKY_MARK for mode in born)
    assert [name for name in objects(prefix) if os.stat(f"/dev/shm/{name}").st_mode & STICKY_MARK] == []


# -- locks in a file of their own --


def use_lock_file(directory):
    """Live as on a system that cannot lock shared memory."""
    segment.LOCKS_IN_FILE = True
    tempfile.tempdir = directory


def serves_with_lock_file(talk, prefix, directory, patience):
    """A child: work and hold as it is told, with its locks in a file."""
    use_lock_file(directory)
    with IPCChannelLayer(prefix, message_memory=SIZE, group_memory=GROUP_SIZE, patience=patience) as layer:
        while True:
            talk.say(os.getpid())
            what = talk.hear()
            if what is None:
                return
            if what == "hold":
                layer.message_store._exclusively(lambda: (talk.say("inside"), talk.hear()))
                continue
            try:
                layer.send("a", {"from": os.getpid()})
            except SegmentBusy as busy:
                talk.say(["busy", busy.pid])


@pytest.fixture
def lock_directory(tmp_path, monkeypatch):
    """Where lock files are, for this process as for the children."""
    monkeypatch.setattr(segment, "LOCKS_IN_FILE", True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return str(tmp_path)


def test_lock_files_prove_life_as_well(prefix, make_layer, start, lock_directory):
    layer = make_layer(patience=0.5)
    child = start(serves_with_lock_file, prefix, lock_directory, 10)
    pid = child.hear()
    child.say("work")
    assert child.hear() == pid
    assert layer.receive(["a"]) == ("a", {"from": pid})
    child.say("hold")
    child.hear()
    with pytest.raises(SegmentBusy) as busy:
        layer.send("a", {})
    assert busy.value.pid == pid
    child.kill()
    works(layer)
    assert sorted(os.listdir(lock_directory)) == [f"asgi_ipc-{prefix}-{kind}.lock" for kind in sorted(KINDS)]
    assert len(objects(prefix)) == 4


@pytest.mark.parametrize("how", ["close", "unlink"])
def test_the_locks_outlive_another_layer_of_the_process(prefix, make_layer, start, lock_directory, how):
    """Closing one drops nothing of the other, nor does leaving a removed segment, which had the same lock file."""
    first, second = make_layer(), make_layer()
    works(first)
    if how == "unlink":
        first.unlink()
        works(second)  # on a new segment, while the first still has the old one
        works(first)  # leaves the old one
    first.close()
    child = start(serves_with_lock_file, prefix, lock_directory, 0.5)
    pid = child.hear()

    def hold():
        child.say("work")
        return child.hear()

    assert second.message_store._exclusively(hold) == ["busy", os.getpid()]
    child.hear()
    child.say("work")
    assert child.hear() == pid
    assert drain(second, "a") == [("a", {"from": pid})]
    child.say(None)
    child.end()


@kinds
def test_a_lock_file_that_was_replaced_is_noticed(prefix, make_layer, lock_directory, kind):
    make_layer().close()
    path = f"{lock_directory}/asgi_ipc-{prefix}-{kind}.lock"
    os.rename(path, path + ".old")
    assert_mismatch(prefix, kind, make_layer, "its lock file was replaced")


def test_a_lock_file_that_others_may_write_is_refused(prefix, make_layer, lock_directory):
    make_layer().close()
    path = f"{lock_directory}/asgi_ipc-{prefix}-messages.lock"
    if os.geteuid() != 0:
        pytest.skip("its mode is put right where it is ours")
    os.chown(path, STRANGER, -1)
    with pytest.raises(SegmentRefused, match=f"its lock file {path} belongs to user {STRANGER}"):
        make_layer()
