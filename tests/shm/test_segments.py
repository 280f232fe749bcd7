"""What stands where a segment should: other programs' files, other versions, damage; and segments of other sizes."""

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
    kinds,
    needs_files,
    path_of,
    words_of,
    works,
    write,
)

from asgi_ipc import IPCChannelLayer, SegmentRefused
from asgi_ipc.shm import layout

pytestmark = needs_files


# -- what stands where a segment should --


def scar(word, value):
    """A way to damage a header word."""
    return lambda words: words.__setitem__(word, value if isinstance(value, int) else value(words[word]))


def swap_bytes(words):
    """What a machine of the other byte order would have written."""
    words.byteswap()


NOT_OURS = {
    "text": (b"hello, world" * 1000, "not a segment of this package"),
    "one_byte": (b"x", "its 1 bytes are not a segment"),
    "odd_size": (bytes(65537), "its 65537 bytes are not a segment"),
    "smaller_than_a_header": (bytes(504), "its 504 bytes are not a segment"),
    "old_package": (
        pickle.dumps({"http.request": [(b"\x81\xa1a\x01", 1e9)]}, 2).ljust(1 << 20, b"\0"),
        "asgi_ipc 1.x or another program made it",
    ),
}
#: How to damage the header of a sound segment, and what is said then.
DAMAGE = {
    "magic": (scar(layout.AT_MAGIC, lambda word: word ^ 1), "not a segment of this package"),
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
    assert_mismatch(prefix, kind, make_layer, f"it was truncated: {size} bytes are left of {SIZE}")


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
