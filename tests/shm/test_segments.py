"""Files that are not a usable segment: foreign, damaged, of another version; segments of other sizes."""

from __future__ import annotations

import logging
import os
import pickle

import posix_ipc
import pytest
from helpers.layers import drain
from helpers.segments import (
    GROUP_SIZE,
    KINDS,
    SIZE,
    assert_mismatch,
    assert_works,
    kinds,
    needs_files,
    path_of,
    words_of,
    write,
)

from asgi_ipc import IPCChannelLayer, SegmentRefused
from asgi_ipc.shm import layout

pytestmark = needs_files


# -- files that are not a usable segment --


def damage_word(word, value):
    """Return a function that damages one header word: sets it to ``value``, or to the result of ``value``."""
    return lambda words: words.__setitem__(word, value if isinstance(value, int) else value(words[word]))


def swap_bytes(words):
    """Write every word as a machine of the other byte order would."""
    words.byteswap()


#: The content of a file that is not a segment, and a part of the error that follows.
FOREIGN = {
    "text": (b"hello, world" * 1000, "not a segment of this package"),
    "one_byte": (b"x", "it has 1 bytes, which is not the size of a segment"),
    "odd_size": (bytes(65537), "it has 65537 bytes, which is not the size of a segment"),
    "smaller_than_a_header": (bytes(504), "it has 504 bytes, which is not the size of a segment"),
    "old_package": (
        pickle.dumps({"http.request": [(b"\x81\xa1a\x01", 1e9)]}, 2).ljust(1 << 20, b"\0"),
        "asgi_ipc 1.x or another program created it",
    ),
}
#: How to damage the header of a sound segment, and a part of the error that follows.
DAMAGE = {
    "magic": (damage_word(layout.AT_MAGIC, lambda word: word ^ 1), "not a segment of this package"),
    "older_version": (damage_word(layout.AT_VERSION, 199), "layout version 199, and this asgi_ipc needs"),
    "newer_version": (damage_word(layout.AT_VERSION, 2**40), "layout version 1099511627776"),
    "kind": (damage_word(layout.AT_KIND, 77), "its header is damaged"),
    "size": (damage_word(layout.AT_SIZE, lambda word: word * 2), "its header is damaged"),
    "nonce": (damage_word(layout.AT_NONCE, 5), "its header is damaged"),
    "key_1": (damage_word(layout.AT_KEY, 5), "its header is damaged"),
    "key_2": (damage_word(layout.AT_KEY + 1, 5), "its header is damaged"),
    "lock_device": (damage_word(layout.AT_LOCK_DEVICE, 5), "its header is damaged"),
    "lock_inode": (damage_word(layout.AT_LOCK_INODE, 5), "its header is damaged"),
    "checksum": (damage_word(layout.AT_CHECKSUM, lambda word: word ^ 1), "its header is damaged"),
    "byte_order": (swap_bytes, "written in the other byte order"),
}


@kinds
@pytest.mark.parametrize(("content", "why"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_and_left_unchanged(prefix, make_layer, kind, content, why):
    write(path_of(prefix, kind), content)
    assert_mismatch(prefix, kind, make_layer, why)
    os.unlink(path_of(prefix, kind))
    assert_works(make_layer())


@kinds
def test_an_unused_segment_of_asgi_ipc_1_is_left_unchanged(prefix, make_layer, kind):
    """It is all zero, as an unfinished segment is. Only its semaphore shows that asgi_ipc 1.x made it."""
    write(path_of(prefix, kind), bytes(1 << 20))
    semaphore = posix_ipc.Semaphore(f"/{prefix}-{kind}", posix_ipc.O_CREX, initial_value=1)
    assert_mismatch(prefix, kind, make_layer, "it was created by asgi_ipc 1.x")
    semaphore.acquire(0)  # the semaphore was not touched either
    semaphore.unlink()
    semaphore.close()
    os.unlink(path_of(prefix, kind))
    assert_works(make_layer())


@kinds
@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_segment_with_a_wrong_header_is_left_unchanged(prefix, make_layer, kind, damage, why):
    make_layer().close()
    path = path_of(prefix, kind)
    words = words_of(path)
    damage(words)
    with open(path, "r+b") as file:
        file.write(words.tobytes())
    assert_mismatch(prefix, kind, make_layer, why)


@kinds
@pytest.mark.parametrize("size", [512, 65536, SIZE // 2], ids=["header", "64KiB", "half"])
def test_a_truncated_segment_is_left_unchanged(prefix, make_layer, kind, size):
    make_layer(group_memory=SIZE).close()
    os.truncate(path_of(prefix, kind), size)
    assert_mismatch(prefix, kind, make_layer, f"it was truncated to {size} of {SIZE} bytes")


def test_a_segment_of_the_other_kind_is_left_unchanged(prefix, make_layer):
    make_layer().close()
    os.rename(path_of(prefix, "groups"), path_of(prefix, "messages"))
    assert_mismatch(prefix, "messages", make_layer, "it is a segment of another kind")


@kinds
@pytest.mark.parametrize("kind_of_file", ["symlink", "directory", "fifo"])
def test_an_object_that_is_not_a_regular_file_is_refused(prefix, make_layer, tmp_path, kind, kind_of_file):
    path, target = path_of(prefix, kind), tmp_path / "target"
    target.write_bytes(b"precious")
    {"symlink": lambda: os.symlink(target, path), "directory": lambda: os.mkdir(path), "fifo": lambda: os.mkfifo(path)}[
        kind_of_file
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
        (os.rmdir if kind_of_file == "directory" else os.unlink)(path)


# -- sizes --


@pytest.fixture
def warnings_logged(caplog):
    """Return a function that lists the warnings which the package has logged so far."""
    caplog.set_level(logging.INFO, logger="asgi_ipc")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "asgi_ipc" and r.levelno >= logging.WARNING]


def make_layer_and_send(talk, prefix, message_memory, group_memory):
    """Run in a child: make a layer with the given sizes in bytes, and send one message when told to."""
    with IPCChannelLayer(prefix, message_memory=message_memory, group_memory=group_memory) as layer:
        talk.say("made")
        talk.hear()
        layer.send("a", {"n": 1})
        talk.say("sent")
        talk.hear()


@pytest.mark.parametrize("factor", [0.5, 2, 1], ids=["smaller", "larger", "same"])
def test_the_first_process_sets_the_sizes(prefix, make_layer, start, warnings_logged, factor):
    first = start(make_layer_and_send, prefix, int(SIZE * factor), int(GROUP_SIZE * factor))
    first.hear()
    layer = make_layer(message_memory=SIZE, group_memory=GROUP_SIZE)
    sizes = [os.stat(path_of(prefix, kind)).st_size for kind in KINDS]
    assert sizes == [SIZE * factor, GROUP_SIZE * factor]
    first.say()
    first.hear()
    assert drain(layer, "a") == [("a", {"n": 1})]
    assert_works(layer)
    first.say()
    first.end()
    texts = warnings_logged()
    if factor == 1:
        assert texts == []
        return
    assert len(texts) == 2
    for text, kind, found, asked in zip(texts, KINDS, sizes, (SIZE, GROUP_SIZE)):
        assert text.startswith(f"{prefix}-{kind} has {found} bytes, not the {asked} requested")
        assert "asgi-ipc unlink" in text
