"""
Segments as files of a system with users, limits, other versions and people who remove things.

Where the system shows no files for shared memory (macOS), there is nothing to look at here.
"""

from __future__ import annotations

import array
import logging
import os
import pickle
import re
import secrets
import stat
import struct
import tempfile
import time

import posix_ipc
import pytest
from conftest import objects_of_tests
from helpers.layers import assert_sound, drain, state

from asgi_ipc import IPCChannelLayer, SegmentMismatch, SegmentRefused
from asgi_ipc.memory import layout, segment, semaphores
from asgi_ipc.memory.semaphores import BIRTHMARK, STILLBORN_AGE

pytestmark = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory has no files here")

SIZE, GROUP_SIZE = 1 << 20, 1 << 18
KINDS = ("messages", "groups")
kinds = pytest.mark.parametrize("kind", KINDS)


def path_of(prefix, kind="messages"):
    """The file that shows a segment."""
    return f"/dev/shm/{prefix}-{kind}"


def objects(prefix):
    """The names of a prefix's objects: two segments, two semaphores."""
    return [name for name in objects_of_tests() if prefix in name]


def read(path):
    """What a file holds, and which file it is."""
    with open(path, "rb") as file:
        return file.read(), os.fstat(file.fileno()).st_ino


def write(path, content):
    """Make a file that only we can write, as a segment is."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def words_of(path):
    """The words of a segment's file."""
    return array.array("Q", read(path)[0])


def works(layer):
    """Messages and groups go through."""
    layer.send("works", {"n": 1})
    assert layer.receive(["works"]) == ("works", {"n": 1})
    layer.group_add("works", "a")
    assert layer.group_channels("works") == ["a"]
    layer.group_discard("works", "a")
    assert_sound(layer)


def break_off(layer):
    """Leave both sections by an exception, so that both stores are repaired and get new semaphores."""

    def fail():
        raise ZeroDivisionError

    for store in (layer.message_store, layer.group_store):
        with pytest.raises(ZeroDivisionError):
            store._guarded(fail)


# -- modes --


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o666], ids=oct)
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_the_mode_holds_whatever_the_umask(prefix, make_layer, umask, mode):
    before = os.umask(umask)
    try:
        layer = make_layer(mode=mode)
        works(layer)
        first = objects(prefix)
        assert len(first) == 4
        assert {name: stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) for name in first} == dict.fromkeys(first, mode)
        break_off(layer)
        works(layer)
        second = objects(prefix)
    finally:
        os.umask(before)
    assert len(second) == 4
    assert len(set(first) & set(second)) == 2  # the semaphores are new
    assert {name: stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) for name in second} == dict.fromkeys(second, mode)


@kinds
@pytest.mark.parametrize(("asked", "found"), [(0o600, 0o620), (0o600, 0o602), (0o600, 0o666), (0o660, 0o666)], ids=oct)
def test_an_object_that_others_may_write_is_refused(prefix, make_layer, kind, asked, found):
    make_layer(mode=asked).close()
    for name in [name for name in objects(prefix) if kind in name]:  # the segment, the semaphore
        path = f"/dev/shm/{name}"
        os.chmod(path, found)
        before = read(path)
        with pytest.raises(SegmentRefused) as refusal:
            works(make_layer(mode=asked))
        assert refusal.value.segment == f"{prefix}-{kind}"
        what = f"semaphore {path}" if name.startswith("sem.") else "it"
        for part in (f"{what} has mode {found:#o}", f"mode {asked:#o} was asked for", f"pass mode={found:#o}"):
            assert part in str(refusal.value)
        if not name.startswith("sem."):  # before it came to that one, it has used the segment
            assert read(path) == before
        os.chmod(path, asked)
    works(make_layer(mode=asked))


def test_an_object_that_others_may_only_read_is_accepted(prefix, make_layer):
    make_layer().close()
    for name in objects(prefix):
        os.chmod(f"/dev/shm/{name}", 0o644)
    works(make_layer())


def test_a_wider_mode_takes_a_segment_that_was_made_with_a_narrow_one(prefix, make_layer):
    make_layer(mode=0o600).close()
    works(make_layer(mode=0o660))


# -- users --

STRANGER, COLLEAGUE, TEAM, OTHER_TEAM = 61001, 61002, 61500, 61600
root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be several users")


def become(user, group, groups=()):
    """Be another user from now on."""
    os.setgroups(list(groups))
    os.setgid(group)
    os.setuid(user)


def serves(talk, prefix, user, group, groups, mode):
    """A child: as another user, do what it is told and say how it went."""
    become(user, group, groups)
    os.umask(0o077)
    layer = None
    while True:
        what = talk.hear()
        try:
            if what is None:
                return
            if what == "open":
                layer = IPCChannelLayer(prefix, message_memory=SIZE, group_memory=GROUP_SIZE, mode=mode)
                result = "opened"
            elif what == "unlink":
                layer.unlink()
                result = "unlinked"
            elif what == "hold":
                layer.message_store._guarded(lambda: (talk.say("inside"), talk.hear()))
            else:
                layer.group_add("users", f"user{user}")
                layer.send("users", {"from": user})
                result = layer.receive(["users"])[1]["from"]
            talk.say(result)
        except Exception as error:
            talk.say([type(error).__name__, str(error)])


@pytest.fixture
def protected(request):
    """Set fs.protected_regular, which forbids O_CREAT on other users' files in shared directories."""
    if request.param is None:
        yield
        return
    path = "/proc/sys/fs/protected_regular"
    try:
        with open(path) as file:
            before = file.read()
        with open(path, "w") as file:
            file.write(str(request.param))
    except OSError as error:
        pytest.skip(f"{path} cannot be set here: {error}")
    yield
    with open(path, "w") as file:
        file.write(before)


@root_only
@kinds
def test_a_segment_of_a_stranger_is_refused(prefix, make_layer, kind):
    make_layer().close()
    for name in [name for name in objects(prefix) if kind in name]:
        path = f"/dev/shm/{name}"
        os.chown(path, STRANGER, -1)
        before = read(path)
        with pytest.raises(SegmentRefused) as refusal:
            works(make_layer())
        assert refusal.value.segment == f"{prefix}-{kind}"
        what = f"semaphore {path}" if name.startswith("sem.") else "it"
        for part in (f"{what} belongs to user {STRANGER}", "this process is user 0", "another prefix", "mode=0o660"):
            assert part in str(refusal.value)
        if not name.startswith("sem."):
            assert read(path) == before
        os.chown(path, 0, -1)
    works(make_layer())


@root_only
@pytest.mark.parametrize("squatted", [0o600, 0o666], ids=oct)
def test_nobody_squats_a_prefix(prefix, start, squatted):
    """A file that somebody else has put there is refused, whatever he lets others do with it."""
    write(path_of(prefix), b"")
    os.chmod(path_of(prefix), squatted)
    os.chown(path_of(prefix), STRANGER, STRANGER)
    victim = start(serves, prefix, COLLEAGUE, TEAM, [], 0o600)
    victim.say("open")
    kind, text = victim.hear()
    assert kind == "SegmentRefused"
    assert re.search(r"may not open it|belongs to user 61001", text)
    assert read(path_of(prefix))[0] == b""
    victim.say(None)
    victim.end()


@root_only
def test_another_user_may_not_open_what_is_ours_alone(prefix, make_layer, start):
    layer = make_layer()
    works(layer)
    other = start(serves, prefix, COLLEAGUE, TEAM, [], 0o600)
    other.say("open")
    time.sleep(1.0)  # a segment this young might be in the making
    kind, text = other.hear()
    assert kind == "SegmentRefused"
    assert "this user may not open it" in text
    assert "mode=0o660" in text
    works(layer)
    other.say(None)
    other.end()


@root_only
@pytest.mark.parametrize("protected", [None, 1, 2], indirect=True, ids=["as_is", "protected_1", "protected_2"])
@pytest.mark.parametrize(
    ("group", "groups"), [(TEAM, []), (OTHER_TEAM, [TEAM])], ids=["primary_group", "supplementary_group"]
)
@pytest.mark.usefixtures("protected")
def test_two_users_of_one_group_share_a_layer(prefix, start, group, groups):
    """They also survive one another: one is killed inside, the other repairs, and a successor of the first goes on."""
    first = start(serves, prefix, STRANGER, TEAM, [], 0o660)
    second = start(serves, prefix, COLLEAGUE, group, groups, 0o660)
    for child in (first, second):
        child.say("open")
        assert child.hear() == "opened"
    for child, user in ((first, STRANGER), (second, COLLEAGUE), (first, STRANGER)):
        child.say("work")
        assert child.hear() == user
    first.say("hold")
    assert first.hear() == "inside"
    first.die()
    second.say("work")
    assert second.hear() == COLLEAGUE
    successor = start(serves, prefix, STRANGER, TEAM, [], 0o660)
    successor.say("open")
    assert successor.hear() == "opened"
    for child, user in ((successor, STRANGER), (second, COLLEAGUE)):
        child.say("work")
        assert child.hear() == user
    second.say("unlink")  # to be able to use it is not to be able to remove it
    kind, text = second.hear()
    assert kind == "SegmentRefused"
    for part in (f"belongs to user {STRANGER}, who alone can remove it", f"'asgi-ipc unlink {prefix}'"):
        assert part in text
    second.say("work")
    assert second.hear() == COLLEAGUE
    successor.say("unlink")
    assert successor.hear() == "unlinked"
    left = [name for name in objects(prefix) if os.stat(f"/dev/shm/{name}").st_uid == STRANGER]
    assert left == []
    for child in (successor, second):
        child.say(None)
        child.end()


# -- what stands where a segment should --


def scar(word, value):
    """A way to damage a header word."""
    return lambda words: words.__setitem__(word, value if isinstance(value, int) else value(words[word]))


def swap_bytes(words):
    """What a machine of the other byte order would have written."""
    words.byteswap()


NOT_OURS = {
    "text": (b"hello, world" * 1000, "no segment of this package"),
    "one_byte": (b"x", "its 1 bytes are no segment"),
    "odd_size": (bytes(65537), "its 65537 bytes are no segment"),
    "smaller_than_a_header": (bytes(504), "its 504 bytes are no segment"),
    "old_package": (
        pickle.dumps({"http.request": [(b"\x81\xa1a\x01", 1e9)]}, 2).ljust(1 << 20, b"\0"),
        "asgi_ipc 1.x or another program made it",
    ),
}
#: How to damage the header of a sound segment, and what is said then.
DAMAGE = {
    "magic": (scar(layout.AT_MAGIC, lambda word: word ^ 1), "no segment of this package"),
    "older_version": (scar(layout.AT_VERSION, 199), "layout version 199, and this asgi_ipc needs"),
    "newer_version": (scar(layout.AT_VERSION, 2**40), "layout version 1099511627776"),
    "kind": (scar(layout.AT_KIND, 77), "its header is damaged"),
    "size": (scar(layout.AT_SIZE, lambda word: word * 2), "its header is damaged"),
    "nonce": (scar(layout.AT_NONCE, 5), "its header is damaged"),
    "key_1": (scar(layout.AT_KEY, 5), "its header is damaged"),
    "key_2": (scar(layout.AT_KEY + 1, 5), "its header is damaged"),
    "lock_device": (scar(layout.AT_LOCK_DEVICE, 5), "its header is damaged"),
    "lock_inode": (scar(layout.AT_LOCK_INODE, 5), "its header is damaged"),
    "checksum": (scar(layout.AT_CHECKSUM, lambda word: word ^ 1), "its header is damaged"),
    "byte_order": (swap_bytes, "written in the other byte order"),
}


def assert_mismatch(prefix, kind, make_layer, why):
    """A layer cannot be made, the error says how to mend that, and the file is as it was."""
    path = path_of(prefix, kind)
    before = read(path)
    with pytest.raises(SegmentMismatch) as refusal:
        make_layer()
    assert refusal.value.segment == f"{prefix}-{kind}"
    for part in (why, "stop the processes that use it", f"'asgi-ipc unlink {prefix}'", f"rm {path}"):
        assert part in str(refusal.value)
    assert read(path) == before


@kinds
@pytest.mark.parametrize(("content", "why"), NOT_OURS.values(), ids=NOT_OURS)
def test_what_is_no_segment_is_left_alone(prefix, make_layer, kind, content, why):
    write(path_of(prefix, kind), content)
    assert_mismatch(prefix, kind, make_layer, why)
    os.unlink(path_of(prefix, kind))
    works(make_layer())


@kinds
def test_an_unused_segment_of_the_old_package_is_left_alone(prefix, make_layer, kind):
    """All zero, as a segment that was never finished; the semaphore tells whose it is."""
    write(path_of(prefix, kind), bytes(1 << 20))
    semaphore = posix_ipc.Semaphore(f"/{prefix}-{kind}", posix_ipc.O_CREX, initial_value=1)
    assert_mismatch(prefix, kind, make_layer, "it was made by asgi_ipc 1.x")
    semaphore.acquire(0)  # nobody has touched that either
    semaphore.unlink()
    semaphore.close()
    os.unlink(path_of(prefix, kind))
    works(make_layer())


@kinds
@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_segment_with_another_header_is_left_alone(prefix, make_layer, kind, damage, why):
    make_layer().close()
    path = path_of(prefix, kind)
    words = words_of(path)
    damage(words)
    with open(path, "r+b") as file:
        file.write(words.tobytes())
    assert_mismatch(prefix, kind, make_layer, why)


@kinds
@pytest.mark.parametrize("size", [512, 65536, SIZE // 2], ids=["header", "64KiB", "half"])
def test_a_segment_cut_short_is_left_alone(prefix, make_layer, kind, size):
    make_layer(group_memory=SIZE).close()
    os.truncate(path_of(prefix, kind), size)
    assert_mismatch(prefix, kind, make_layer, f"it was cut short: {size} bytes are left of {SIZE}")


def test_a_segment_of_the_other_kind_is_left_alone(prefix, make_layer):
    make_layer().close()
    os.rename(path_of(prefix, "groups"), path_of(prefix, "messages"))
    assert_mismatch(prefix, "messages", make_layer, "it is a segment of another kind")


@kinds
@pytest.mark.parametrize("what", ["symlink", "directory", "fifo"])
def test_what_is_no_file_is_refused(prefix, make_layer, tmp_path, kind, what):
    path, target = path_of(prefix, kind), tmp_path / "target"
    target.write_bytes(b"precious")
    {"symlink": lambda: os.symlink(target, path), "directory": lambda: os.mkdir(path), "fifo": lambda: os.mkfifo(path)}[
        what
    ]()
    try:
        with pytest.raises(SegmentRefused) as refusal:
            make_layer()
        assert refusal.value.segment == f"{prefix}-{kind}"
        assert path in str(refusal.value)
        assert "remove it" in str(refusal.value)
        assert target.read_bytes() == b"precious"
        assert os.path.lexists(path)
    finally:
        (os.rmdir if what == "directory" else os.unlink)(path)


# -- sizes --


@pytest.fixture
def warned(caplog):
    """What the package has warned of so far."""
    caplog.set_level(logging.INFO, logger="asgi_ipc")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "asgi_ipc" and r.levelno >= logging.WARNING]


def makes(talk, prefix, message_memory, group_memory):
    """A child: make a layer of certain sizes and stay."""
    with IPCChannelLayer(prefix, message_memory=message_memory, group_memory=group_memory) as layer:
        talk.say("made")
        talk.hear()
        layer.send("a", {"n": 1})
        talk.say("sent")
        talk.hear()


@pytest.mark.parametrize("factor", [0.5, 2, 1], ids=["smaller", "larger", "same"])
def test_the_first_process_sets_the_sizes(prefix, make_layer, start, warned, factor):
    first = start(makes, prefix, int(SIZE * factor), int(GROUP_SIZE * factor))
    first.hear()
    layer = make_layer(message_memory=SIZE, group_memory=GROUP_SIZE)
    sizes = [os.stat(path_of(prefix, kind)).st_size for kind in KINDS]
    assert sizes == [SIZE * factor, GROUP_SIZE * factor]
    first.say()
    first.hear()
    assert drain(layer, "a") == [("a", {"n": 1})]
    works(layer)
    first.say()
    first.end()
    told = warned()
    if factor == 1:
        assert told == []
        return
    assert len(told) == 2
    for text, kind, found, asked in zip(told, KINDS, sizes, (SIZE, GROUP_SIZE)):
        assert text.startswith(f"{prefix}-{kind} has {found} bytes, not the {asked} asked for")
        assert "asgi-ipc unlink" in text


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
    os.chmod(path_of(prefix, kind), 0o400)
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
        os.chmod(path, how.get("mode", 0o600 | BIRTHMARK))
        if how.get("owner"):
            os.chown(path, how["owner"], -1)
        then = time.time() - how.get("age", STILLBORN_AGE + 60)
        os.utime(path, (then, then))
        return path

    yield make
    for path in made:
        if os.path.exists(path):
            os.unlink(path)


def test_stillborn_semaphores_are_swept_and_nothing_else(make_layer, six):
    """What a process killed inside sem_open leaves behind bears our mark, and is seconds old."""
    stillborn = [six(), six(mode=0o660 | BIRTHMARK)]
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
    assert all(mode & BIRTHMARK for mode in born)
    assert [name for name in objects(prefix) if os.stat(f"/dev/shm/{name}").st_mode & BIRTHMARK] == []


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
                layer.message_store._guarded(lambda: (talk.say("inside"), talk.hear()))
            else:
                layer.send("a", {"from": os.getpid()})


@pytest.fixture
def lock_directory(tmp_path, monkeypatch):
    """Where lock files are, for this process as for the children."""
    monkeypatch.setattr(segment, "LOCKS_IN_FILE", True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return str(tmp_path)


def test_lock_files_prove_life_as_well(prefix, make_layer, start, lock_directory):
    from asgi_ipc import SegmentBusy

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


def test_two_layers_share_a_lock_file(prefix, make_layer, start, lock_directory):
    """Closing one must not drop the locks of the other, nor must leaving a segment that was removed."""
    first, second = make_layer(), make_layer()
    works(second)
    first.close()
    third = make_layer()
    works(third)
    second.unlink()
    works(second)  # on a new segment, with the same lock file, which the third still has open for the old one
    works(third)
    child = start(serves_with_lock_file, prefix, lock_directory, 0.5)
    child.hear()

    def hold():
        child.say("work")
        time.sleep(0.2)  # the child tries, and must wait

    second.message_store._guarded(hold)
    child.hear()
    works(third)
    assert [message for _, message in drain(third, "a")] == [{"from": child.pid}]
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
