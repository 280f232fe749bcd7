"""Who may touch a segment: modes, owners, users of one group."""

from __future__ import annotations

import os
import re
import stat
import time

import pytest
from helpers.segments import (
    COLLEAGUE,
    GROUP_SIZE,
    OTHER_TEAM,
    SIZE,
    STRANGER,
    TEAM,
    break_off,
    kinds,
    needs_files,
    objects,
    path_of,
    read,
    works,
    write,
)

from asgi_ipc import IPCChannelLayer, SegmentRefused

pytestmark = needs_files


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
                layer.message_store._exclusively(lambda: (talk.say("inside"), talk.hear()))
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
def test_a_segment_whose_mode_is_not_set_yet_is_waited_for(prefix, start):
    """Another user of the group is making it, under a narrow umask: for a moment nobody else may open it."""
    other = start(serves, prefix, COLLEAGUE, TEAM, [], 0o660)
    path = path_of(prefix)
    write(path, b"")
    os.chown(path, STRANGER, TEAM)
    os.chmod(path, 0)
    other.say("open")
    time.sleep(0.3)
    os.chmod(path, 0o660)
    assert other.hear() == "opened"
    other.say("work")
    assert other.hear() == COLLEAGUE
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
    for part in (f"belongs to user {STRANGER}, and only its owner can remove it", f"'asgi-ipc unlink {prefix}'"):
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


def test_a_semaphore_of_a_killed_user_that_nobody_else_may_remove_stops_nobody(prefix, start):
    """He was killed between making it and publishing its epoch: /dev/shm is sticky, so another user goes past it."""
    one, other = (start(serves, prefix, user, TEAM, [], 0o660) for user in (STRANGER, COLLEAGUE))
    for child in (one, other):
        for order in ("open", "work"):
            child.say(order)
            child.hear()
    current = next(name for name in objects(prefix) if name.startswith(f"sem.{prefix}-messages"))
    stem, _, epoch = current.rpartition(".")
    stale = os.path.join("/dev/shm", f"{stem}.{int(epoch, 16) + 2:x}")
    write(stale, bytes(32))
    os.chown(stale, STRANGER, TEAM)
    one.say("hold")
    one.hear()
    one.die()
    other.say("work")
    assert other.hear() == COLLEAGUE
