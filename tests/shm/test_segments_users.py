"""Permissions of segments: modes, owners, users of one group."""

from __future__ import annotations

import os
import re
import stat
import time

import pytest
from helpers.segments import (
    GROUP_SIZE,
    KINDS,
    OTHER_GROUP,
    OTHER_USER,
    SHARED_GROUP,
    SIZE,
    THIRD_USER,
    assert_works,
    kinds,
    memory_objects,
    needs_files,
    objects,
    path_of,
    raise_in_critical_sections,
    read,
    words_of,
    write,
)

from asgi_ipc import IPCChannelLayer, SegmentRefused
from asgi_ipc.cli.unlink import remove
from asgi_ipc.shm.layout import AT_EPOCH, AT_KEY, AT_NONCE, TOMBSTONE
from asgi_ipc.shm.permissions import create_object
from asgi_ipc.shm.segment import FIRST_EPOCH
from asgi_ipc.shm.semaphores import LARGEST_JUMP, TRIES, Semaphores, lost_semaphore

pytestmark = needs_files
root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be several users")


# -- modes --


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666], ids=oct)
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777], ids=oct)
def test_the_mode_does_not_depend_on_the_umask(prefix, make_layer, umask, mode):
    before = os.umask(umask)
    try:
        layer = make_layer(mode=mode)
        assert_works(layer)
        first = memory_objects(prefix)
        assert len(first) == 4
        assert {name: stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) for name in first} == dict.fromkeys(first, mode)
        raise_in_critical_sections(layer)
        assert_works(layer)
        second = memory_objects(prefix)
    finally:
        os.umask(before)
    assert len(second) == 4
    assert len(set(first) & set(second)) == 2  # the semaphores are new
    assert {name: stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) for name in second} == dict.fromkeys(second, mode)


@kinds
@pytest.mark.parametrize(("asked", "found"), [(0o600, 0o660), (0o600, 0o606), (0o600, 0o666), (0o660, 0o666)], ids=oct)
def test_an_object_that_others_may_write_is_refused(prefix, make_layer, kind, asked, found):
    make_layer(mode=asked).close()
    for name in memory_objects(prefix, kind):  # the segment, the semaphore
        path = f"/dev/shm/{name}"
        os.chmod(path, found)
        before = read(path)
        with pytest.raises(SegmentRefused) as refusal:
            assert_works(make_layer(mode=asked))
        assert refusal.value.segment == f"{prefix}-{kind}"
        subject = f"semaphore {path}" if name.startswith("sem.") else "it"
        wider = 0o666 if found & 0o006 else 0o660
        for part in (f"{subject} has mode {found:#o}", f"mode {asked:#o} was requested", f"pass mode={wider:#o}"):
            assert part in str(refusal.value)
        if not name.startswith("sem."):  # the semaphore is checked after the segment was used
            assert read(path) == before
        os.chmod(path, asked)
    assert_works(make_layer(mode=asked))


@kinds
@pytest.mark.parametrize("asked", [0o600, 0o660, 0o666], ids=oct)
@pytest.mark.parametrize("found", [0o644, 0o640, 0o604, 0o620, 0o602, 0o664], ids=oct)
def test_an_object_that_others_may_open_but_not_use_is_refused(prefix, make_layer, kind, asked, found):
    make_layer(mode=asked).close()
    for name in memory_objects(prefix, kind):
        path = f"/dev/shm/{name}"
        os.chmod(path, found)
        with pytest.raises(SegmentRefused) as refusal:
            assert_works(make_layer(mode=asked))
        assert refusal.value.segment == f"{prefix}-{kind}"
        subject = f"semaphore {path}" if name.startswith("sem.") else "it"
        for part in (f"{subject} has mode {found:#o}", "Use mode 0o600, 0o660 or 0o666", f"'asgi-ipc unlink {prefix}'"):
            assert part in str(refusal.value)
        os.chmod(path, asked)
    assert_works(make_layer(mode=asked))


def run_unlink(talk, prefix):
    """Run in a child: remove a layer as the command does, and report what was removed and what was kept."""
    talk.say(remove(prefix))


def test_unlink_removes_a_segment_that_others_may_open_but_not_use(prefix, make_layer, start):
    """The error recommends this. Processes that use the segment notice it at once, by the tombstone."""
    layer = make_layer()
    assert_works(layer)
    for kind in KINDS:
        os.chmod(path_of(prefix, kind), 0o644)
    child = start(run_unlink, prefix)
    removed, kept = child.hear()
    child.end()
    assert kept == []
    assert {f"segment {prefix}-{kind}" for kind in KINDS} <= set(removed)
    assert objects(prefix) == []
    for store in (layer.message_store, layer.group_store):
        assert store.sections.attachment.segment.words[AT_EPOCH] == TOMBSTONE
    assert_works(layer)
    layer.unlink()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o777], ids=oct)
def test_a_new_segment_never_has_a_mode_that_other_processes_refuse(prefix, umask):
    """They may open it before its creator goes on. The umask would let the group read and not write."""
    before = os.umask(umask)
    try:
        os.close(create_object(prefix, 0o660))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"/dev/shm/{prefix}").st_mode) == 0o660


def test_a_layer_with_a_wider_mode_uses_a_segment_with_a_narrow_one(prefix, make_layer):
    make_layer(mode=0o600).close()
    assert_works(make_layer(mode=0o660))


# -- users --


def become(user, group, groups=()):
    """Make this process run as another user."""
    os.setgroups(list(groups))
    os.setgid(group)
    os.setuid(user)


def serve_as_user(talk, prefix, user, group, groups, mode):
    """Run in a child: as another user, carry out commands and report the results or errors."""
    become(user, group, groups)
    os.umask(0o077)
    layer = None
    while True:
        command = talk.hear()
        try:
            if command is None:
                return
            if command == "open":
                layer = IPCChannelLayer(prefix, message_memory=SIZE, group_memory=GROUP_SIZE, mode=mode)
                result = "opened"
            elif command == "unlink":
                layer.unlink()
                result = "unlinked"
            elif command == "hold":
                layer.message_store.sections.exclusively(lambda: (talk.say("inside"), talk.hear()))
            else:
                layer.group_add("users", f"user{user}")
                layer.send("users", {"from": user})
                result = layer.receive(["users"])[1]["from"]
            talk.say(result)
        except Exception as error:
            talk.say([type(error).__name__, str(error)])


@pytest.fixture
def protected(request):
    """Set ``fs.protected_regular``, which forbids ``O_CREAT`` on other users' files in shared directories."""
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
def test_a_segment_of_another_user_is_refused(prefix, make_layer, kind):
    make_layer().close()
    for name in memory_objects(prefix, kind):
        path = f"/dev/shm/{name}"
        os.chown(path, OTHER_USER, -1)
        before = read(path)
        with pytest.raises(SegmentRefused) as refusal:
            assert_works(make_layer())
        assert refusal.value.segment == f"{prefix}-{kind}"
        subject = f"semaphore {path}" if name.startswith("sem.") else "it"
        owner = f"{subject} belongs to user {OTHER_USER}"
        for part in (owner, "this process is user 0", "another prefix", "mode=0o660"):
            assert part in str(refusal.value)
        if not name.startswith("sem."):
            assert read(path) == before
        os.chown(path, 0, -1)
    assert_works(make_layer())


@root_only
@pytest.mark.parametrize("squatted_mode", [0o600, 0o666], ids=oct)
def test_a_file_that_another_user_placed_is_refused(prefix, start, squatted_mode):
    """A file that another user has put there is refused, whatever its mode."""
    write(path_of(prefix), b"")
    os.chmod(path_of(prefix), squatted_mode)
    os.chown(path_of(prefix), OTHER_USER, OTHER_USER)
    victim = start(serve_as_user, prefix, THIRD_USER, SHARED_GROUP, [], 0o600)
    victim.say("open")
    kind, text = victim.hear()
    assert kind == "SegmentRefused"
    assert re.search(r"may not open it|belongs to user 61001", text)
    assert read(path_of(prefix))[0] == b""
    victim.say(None)
    victim.end()


@root_only
def test_another_user_may_not_open_a_private_segment(prefix, make_layer, start):
    layer = make_layer()
    assert_works(layer)
    other = start(serve_as_user, prefix, THIRD_USER, SHARED_GROUP, [], 0o600)
    other.say("open")
    time.sleep(1.0)  # a segment as new as this might still be unfinished
    kind, text = other.hear()
    assert kind == "SegmentRefused"
    assert "this user may not open it" in text
    assert "mode=0o660" in text
    assert_works(layer)
    other.say(None)
    other.end()


@root_only
def test_a_layer_waits_for_a_segment_whose_mode_is_not_set_yet(prefix, start):
    """Another user of the group creates it under a narrow umask, so at first no other process may open it."""
    other = start(serve_as_user, prefix, THIRD_USER, SHARED_GROUP, [], 0o660)
    path = path_of(prefix)
    write(path, b"")
    os.chown(path, OTHER_USER, SHARED_GROUP)
    os.chmod(path, 0)
    other.say("open")
    time.sleep(0.3)
    os.chmod(path, 0o660)
    assert other.hear() == "opened"
    other.say("work")
    assert other.hear() == THIRD_USER
    other.say(None)
    other.end()


@root_only
@pytest.mark.parametrize("protected", [None, 1, 2], indirect=True, ids=["as_is", "protected_1", "protected_2"])
@pytest.mark.parametrize(
    ("group", "groups"),
    [(SHARED_GROUP, []), (OTHER_GROUP, [SHARED_GROUP])],
    ids=["primary_group", "supplementary_group"],
)
@pytest.mark.usefixtures("protected")
def test_two_users_of_one_group_share_a_layer(prefix, start, group, groups):
    """One is killed in the critical section, the other recovers, and the first user starts a new process."""
    first = start(serve_as_user, prefix, OTHER_USER, SHARED_GROUP, [], 0o660)
    second = start(serve_as_user, prefix, THIRD_USER, group, groups, 0o660)
    for child in (first, second):
        child.say("open")
        assert child.hear() == "opened"
    for child, user in ((first, OTHER_USER), (second, THIRD_USER), (first, OTHER_USER)):
        child.say("work")
        assert child.hear() == user
    first.say("hold")
    assert first.hear() == "inside"
    first.die()
    second.say("work")
    assert second.hear() == THIRD_USER
    successor = start(serve_as_user, prefix, OTHER_USER, SHARED_GROUP, [], 0o660)
    successor.say("open")
    assert successor.hear() == "opened"
    for child, user in ((successor, OTHER_USER), (second, THIRD_USER)):
        child.say("work")
        assert child.hear() == user
    second.say("unlink")  # permission to use a segment is no permission to remove it
    kind, text = second.hear()
    assert kind == "SegmentRefused"
    for part in (f"belongs to user {OTHER_USER}, and only its owner can remove it", f"'asgi-ipc unlink {prefix}'"):
        assert part in text
    second.say("work")
    assert second.hear() == THIRD_USER
    successor.say("unlink")
    assert successor.hear() == "unlinked"
    left = [name for name in objects(prefix) if os.stat(f"/dev/shm/{name}").st_uid == OTHER_USER]
    assert left == []
    for child in (successor, second):
        child.say(None)
        child.end()


@root_only
def test_a_semaphore_of_a_killed_process_that_cannot_be_removed_is_skipped(prefix, start):
    """
    Its creator was killed before it published the epoch; ``/dev/shm`` is sticky, so others skip it.

    A user who may read the segment could create many such names. Only one of them costs a try.
    """
    one, other = (start(serve_as_user, prefix, user, SHARED_GROUP, [], 0o660) for user in (OTHER_USER, THIRD_USER))
    for child in (one, other):
        for command in ("open", "work"):
            child.say(command)
            child.hear()
    semaphores = semaphores_of(prefix)
    taken = [f"/dev/shm/sem.{semaphores.name(epoch)[1:]}" for epoch in range(FIRST_EPOCH + 2, 400, 2)]
    for path in taken:
        write(path, bytes(32))
        os.chown(path, OTHER_USER, SHARED_GROUP)
    one.say("hold")
    one.hear()
    one.die()
    other.say("work")
    assert other.hear() == THIRD_USER
    epoch = words_of(path_of(prefix))[AT_EPOCH]
    assert epoch > 400
    assert os.stat(f"/dev/shm/sem.{semaphores.name(epoch)[1:]}").st_uid == THIRD_USER
    assert all(os.path.exists(path) for path in taken)


def semaphores_of(prefix):
    """Return the semaphores of a message segment, as a process that may read it finds their names."""
    words = words_of(path_of(prefix))
    return Semaphores(f"{prefix}-messages", words[AT_NONCE], words[AT_KEY : AT_KEY + 2].tobytes(), 0o660, SHARED_GROUP)


def test_the_number_of_tries_for_the_next_semaphore_is_limited(prefix, monkeypatch):
    semaphores = Semaphores(prefix, 1, b"key", 0o600, os.getgid())
    tried = []
    monkeypatch.setattr(semaphores, "create", tried.append)
    with pytest.raises(SegmentRefused, match=f"remove sem.{prefix}"):
        semaphores.create_from(4)
    assert tried[0] == 4
    assert len(tried) == TRIES
    assert all(epoch % 2 == 0 for epoch in tried)
    assert all(2 <= later - earlier <= 2 * LARGEST_JUMP for earlier, later in zip(tried, tried[1:]))
    assert min(later - earlier for earlier, later in zip(tried, tried[1:])) > 400  # nobody can take all of these


def test_names_of_semaphores_cannot_be_told_without_the_key(prefix):
    """Everything else that they depend on can be seen or guessed."""
    keys = [b"key", b"kez", b""]
    names = {Semaphores(prefix, 1, key, 0o600, os.getgid()).name(epoch) for key in keys for epoch in range(2, 200, 2)}
    assert len(names) == len(keys) * 99
    for name in names:
        assert lost_semaphore(prefix).fullmatch("sem." + name[1:])
        assert len(name.rpartition(".")[2]) + 1 <= 31  # all that macOS gets
