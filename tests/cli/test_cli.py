"""The command line: ``demo`` accounts for every message, ``unlink`` removes the objects of a prefix."""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import posix_ipc
import pytest
from helpers.processes import LIMIT, Children, Talk

import asgi_ipc
from asgi_ipc import IPCChannelLayer, SegmentMismatch
from asgi_ipc.cli import main
from asgi_ipc.demo import run as demo
from asgi_ipc.demo import workers as demo_workers
from asgi_ipc.demo.tally import Tally
from asgi_ipc.stores import unlink as removal

SHM = "/dev/shm"
ROOT = str(Path(__file__).parents[2])

needs_shm_files = pytest.mark.skipif(
    not os.path.isdir(SHM), reason="shared memory shows up as files on Linux only"
)


def command(*arguments: str) -> subprocess.Popen[str]:
    """Start ``python -m asgi_ipc`` in its own session."""
    # If these tests run in the background of a shell, SIGINT is ignored, and children inherit that.
    previous_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "asgi_ipc", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    with command(*arguments) as process:
        output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def left_by(pid: int) -> list[str]:
    """Return the names of the shared memory objects of the demo that process ``pid`` runs."""
    return [name for name in os.listdir(SHM) if f"asgi-ipc-demo-{pid}-" in name]


def processes_of_session(session: int) -> list[int]:
    """Return the processes of a session (Linux: field 6 of ``/proc/PID/stat``), without zombies."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z" and int(fields[3]) == session:
                found.append(int(entry))
    return found


def eventually(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, failure
        time.sleep(0.05)


# -- the command ---------------------------------------------------------------------------------------------


def test_version_prints_the_version_of_the_package() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.strip() == f"asgi_ipc {asgi_ipc.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unlink"],
        ["demo", "--seconds", "0"],
        ["demo", "--seconds", "nan"],
        ["demo", "--senders", "-1"],
        ["demo", "--receivers", "x"],
        ["demo", "--kill", "all"],
    ],
    ids=lambda arguments: " ".join(arguments) or "none",
)
def test_wrong_arguments_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: asgi-ipc" in capsys.readouterr().err


# -- the demo ------------------------------------------------------------------------------------------------


@needs_shm_files
def test_demo_accounts_for_every_message_and_leaves_no_object() -> None:
    with command("demo", "--seconds", "2") as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert errors == ""
    assert "killed sender" in output
    assert "killed receiver" in output
    assert "0 lost, 0 duplicated, 0 corrupted, 0 out of order, 0 left in shared memory" in output
    assert "Every message is accounted for." in output
    assert left_by(process.pid) == []


@needs_shm_files
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_leaves_no_object_and_no_process(
    number: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with command("demo", "--seconds", "60") as process:
        assert process.stdout is not None
        eventually(lambda: len(processes_of_session(process.pid)) >= 5, "the workers have not started")
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == status
    assert left_by(process.pid) == []
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: not processes_of_session(process.pid), "workers still run")


@needs_shm_files
def test_ctrl_c_in_a_terminal_ends_all_processes_and_leaves_no_object() -> None:
    with command("demo", "--seconds", "60") as process:
        eventually(lambda: len(processes_of_session(process.pid)) >= 5, "the workers have not started")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert left_by(process.pid) == []


@needs_shm_files
def test_workers_ignore_ctrl_c() -> None:
    """Only the demo may end its workers: a worker that ends by itself counts as unexpectedly dead."""
    with command("demo", "--seconds", "2", "--kill", "none") as process:
        eventually(lambda: len(processes_of_session(process.pid)) >= 5, "the workers have not started")
        for worker in processes_of_session(process.pid):
            if worker != process.pid:
                os.kill(worker, signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors


@needs_shm_files
def test_workers_of_a_killed_demo_end_and_remove_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with command("demo", "--seconds", "60") as process:
        try:
            eventually(lambda: len(list(tmp_path.glob("*/output/*"))) > 5, "the workers have not started")
            process.kill()
            process.wait()
            eventually(lambda: not processes_of_session(process.pid), "workers still run")
        finally:
            for left in processes_of_session(process.pid):
                os.kill(left, signal.SIGKILL)
    assert left_by(process.pid) == []
    assert list(tmp_path.iterdir()) == []


class DuplicatingJournal(demo_workers.Journal):
    """Writes one piece twice, as a receiver that gets a message twice would."""

    done = False

    def write(self, *words: object) -> None:
        super().write(*words)
        if words[0] == "piece" and not self.done:
            self.done = True
            super().write(*words)


class OmittingJournal(demo_workers.Journal):
    """Omits one piece, as if its message had been lost."""

    done = False

    def write(self, *words: object) -> None:
        if words[0] == "piece" and not self.done:
            self.done = True
        else:
            super().write(*words)


def duplicating_receiver(*args: Any) -> None:
    demo_workers.Journal = DuplicatingJournal  # type: ignore[misc]
    demo_workers.receive(*args)


def omitting_receiver(*args: Any) -> None:
    demo_workers.Journal = OmittingJournal  # type: ignore[misc]
    demo_workers.receive(*args)


def corrupting_receiver(*args: Any) -> None:
    """Receive, but change the first byte of the first piece that is written."""
    pwrite, changed = os.pwrite, []

    def change_first_byte(fd: int, body: bytes, start: int) -> int:
        if not changed:
            changed.append(start)
            body = bytes([body[0] ^ 1]) + body[1:]
        return pwrite(fd, body, start)

    os.pwrite = change_first_byte  # type: ignore[assignment]
    demo_workers.receive(*args)


def dying_receiver(*args: Any) -> None:
    raise SystemExit(7)


@pytest.mark.parametrize(
    ("receiver", "fault"),
    [(duplicating_receiver, "1 duplicated"), (omitting_receiver, "1 lost"), (corrupting_receiver, "1 corrupted")],
    ids=["duplicated", "lost", "inconsistent"],
)
def test_demo_fails_when_it_finds_a_fault(
    receiver: Any, fault: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "receive", receiver)
    assert demo.run_demo(demo.DemoOptions(seconds=0.3, receivers=1, kill="none")) == 1
    output = capfd.readouterr().out
    assert fault in output
    assert "The demo failed: see the faults above." in output
    assert left_by(os.getpid()) == []


def test_demo_fails_when_a_worker_dies_unexpectedly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "receive", dying_receiver)
    assert demo.run_demo(demo.DemoOptions(seconds=0.3, receivers=1, kill="none")) == 1
    assert "ended unexpectedly, with exit status 7" in capfd.readouterr().err
    assert left_by(os.getpid()) == []


def test_demo_fails_when_no_message_arrives(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "STALLED", 1.0)
    monkeypatch.setattr(demo._Demo, "start_receiver", lambda self, number: None)
    assert demo.run_demo(demo.DemoOptions(seconds=0.3, receivers=1, kill="none")) == 1
    assert "no message has arrived" in capfd.readouterr().err
    assert left_by(os.getpid()) == []


# -- the demo's accounts -------------------------------------------------------------------------------------

DATA = bytes(range(256)) * 20


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    """A tally of one source file of several pieces, for two senders."""
    (tmp_path / "source").write_bytes(DATA)
    (tmp_path / "output").mkdir()
    return Tally([("source", str(tmp_path / "source"))], str(tmp_path / "output"), senders=2)


def pieces() -> int:
    return len(demo_workers.cuts(0, len(DATA)))


def test_pieces_cover_the_file_without_gap_or_overlap() -> None:
    for stream in range(50):
        cuts = demo_workers.cuts(stream, len(DATA))
        assert b"".join(DATA[start:end] for start, end in cuts) == DATA
        assert all(1 <= end - start <= demo_workers.LARGEST_PIECE for start, end in cuts)
        assert cuts == demo_workers.cuts(stream, len(DATA))
    assert pieces() > 2


def test_tally_accepts_a_complete_file(tally: Tally, tmp_path: Path) -> None:
    (tmp_path / "output" / "0").write_bytes(DATA)
    for part in range(pieces()):
        tally.note(0, "sender", ["piece", "0", str(part)])
        tally.note(1 + part % 2, "receiver", ["piece", "0", str(part)])
    assert (tally.whole, tally.torn, tally.doubled, tally.out_of_order, tally.settle()) == (1, 0, 0, 0, 0)
    assert tally.bytes == len(DATA)
    assert not (tmp_path / "output" / "0").exists()


def test_tally_finds_an_inconsistent_file(tally: Tally, tmp_path: Path) -> None:
    (tmp_path / "output" / "0").write_bytes(DATA[:-1] + b"?")
    for part in range(pieces()):
        tally.note(0, "sender", ["piece", "0", str(part)])
        tally.note(1, "receiver", ["piece", "0", str(part)])
    assert (tally.whole, tally.torn) == (0, 1)


def test_tally_finds_missing_duplicate_inconsistent_and_unordered_pieces(tally: Tally, tmp_path: Path) -> None:
    (tmp_path / "output" / "0").write_bytes(b"\xff" * len(DATA))
    for part in range(3):
        tally.note(0, "sender", ["piece", "0", str(part)])
    for part in (2, 0, 0):
        tally.note(1, "receiver", ["piece", "0", str(part)])
    assert (tally.doubled, tally.out_of_order) == (1, 1)
    assert tally.settle() == 1
    assert tally.torn == 1


def test_tally_finds_a_message_that_repeats_after_its_file_was_complete(
    tally: Tally, tmp_path: Path
) -> None:
    (tmp_path / "output" / "0").write_bytes(DATA)
    for part in range(pieces()):
        tally.note(1, "receiver", ["piece", "0", str(part)])
    tally.note(2, "receiver", ["piece", "0", "0"])
    assert tally.doubled == 1


def test_tally_knows_where_a_sender_continues(tally: Tally) -> None:
    tally.expect(0, 5, 2)
    assert tally.following(0) == (5, 2)
    tally.note(0, "sender", ["piece", "6", "0"])
    assert tally.following(0) == (6, 1)
    tally.note(0, "sender", ["piece", "0", str(pieces() - 1)])
    assert tally.following(0) == (2, 0)


def test_tally_records_the_longest_wait(tally: Tally) -> None:
    for seconds in ("0.25", "0.5", "0.125"):
        tally.note(0, "sender", ["wait", seconds])
    assert tally.longest == 0.5


def test_reader_returns_complete_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    reader = demo_workers.Reader(str(path))
    assert reader.lines() == []
    path.write_bytes(b"piece 1 2\npie")
    assert reader.lines() == [["piece", "1", "2"]]
    assert reader.lines() == []
    path.write_bytes(b"piece 1 2\npiece 1 3\n")
    assert reader.lines() == [["piece", "1", "3"]]


# -- unlink --------------------------------------------------------------------------------------------------


def objects(prefix: str) -> list[str]:
    return sorted(name for name in os.listdir(SHM) if name.startswith((prefix, f"sem.{prefix}")))


@pytest.fixture
def old_segments(prefix: str) -> None:
    """The objects of asgi_ipc 1.x: for each kind, a semaphore and, of the same name, a pickle."""
    for kind in ("messages", "groups"):
        name = f"/{prefix}-{kind}"
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=1).close()
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=65536)
        os.write(memory.fd, pickle.dumps({"channel": [(b"x", 1.0)]}, protocol=2))
        memory.close_fd()


@needs_shm_files
def test_unlink_removes_all_objects_and_running_layers_notice(
    prefix: str, make_layer: Callable[..., IPCChannelLayer], caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer()
    layer.send("channel", {"text": "waits"})
    layer.group_add("group", "channel")
    before = objects(prefix)
    done = run("unlink", prefix)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    messages, groups = ([name for name in before if f"-{kind}" in name] for kind in ("messages", "groups"))
    directory = f"{prefix}-messages.wakeup"
    messages.sort(key=directory.__eq__)  # last
    assert [line.split()[-1] for line in done.stdout.splitlines()] == messages + groups
    assert objects(prefix) == []
    assert layer.receive(["channel"]) == (None, None)
    assert layer.group_channels("group") == []
    assert "was removed while in use" in caplog.text
    layer.send("channel", {"text": "anew"})
    assert layer.receive(["channel"]) == ("channel", {"text": "anew"})
    layer.unlink()


def wait_for_a_message(talk: Talk, prefix: str) -> None:
    """Run in a child: wait for a message that does not come."""
    with IPCChannelLayer(prefix, message_memory=1024 * 1024, group_memory=256 * 1024, block_timeout=60) as layer:
        talk.say("waits")
        layer.receive(["channel"], block=True)


@needs_shm_files
def test_unlink_removes_the_fifo_of_a_process_that_died_after_the_segment_was_removed(
    prefix: str, start: Children
) -> None:
    child = start(wait_for_a_message, prefix)
    assert child.hear() == "waits"
    deadline = time.monotonic() + LIMIT
    directory = Path(SHM, f"{prefix}-messages.wakeup")
    while not list(directory.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill(signal.SIGSTOP)  # so that it does not attach to a new segment
    assert run("unlink", prefix).returncode == 0
    assert objects(prefix) == [directory.name]
    (fifo,) = directory.iterdir()
    child.die()
    done = run("unlink", prefix)
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [f"removed wakeup FIFO {directory.name}/{fifo.name}", f"removed directory {directory.name}"],
    )
    assert objects(prefix) == []


@needs_shm_files
def test_unlink_of_an_unused_prefix_is_an_error(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unlink", prefix]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"asgi-ipc: nothing to remove: no shared memory has the prefix {prefix!r}\n"


@pytest.mark.parametrize("wrong", ["", "a/b", "../x"])
def test_unlink_rejects_an_invalid_prefix(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unlink", wrong]) == 1
    assert f"{wrong!r} is not a prefix" in capsys.readouterr().err


@needs_shm_files
def test_unlink_keeps_other_prefixes(prefix: str, make_layer: Callable[..., IPCChannelLayer]) -> None:
    others = [prefix + "x", prefix + "-messages", prefix + "-messages.1", prefix + "-messages.1.2"]
    layers = [make_layer(prefix=name) for name in others]
    other_file = f"{prefix}-messages.old"
    Path(SHM, other_file).touch()
    kept = objects(prefix)
    make_layer()
    assert main(["unlink", prefix]) == 0
    assert objects(prefix) == kept
    os.unlink(os.path.join(SHM, other_file))
    for layer in layers:
        layer.send("channel", {"text": "still here"})
        assert layer.receive(["channel"]) == ("channel", {"text": "still here"})
        layer.unlink()


@needs_shm_files
def test_unlink_removes_objects_of_asgi_ipc_1(
    prefix: str,
    old_segments: None,
    make_layer: Callable[..., IPCChannelLayer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SegmentMismatch, match=f"asgi-ipc unlink {prefix}'"):
        make_layer()
    assert main(["unlink", prefix]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"removed segment {prefix}-messages",
        f"removed semaphore sem.{prefix}-messages",
        f"removed segment {prefix}-groups",
        f"removed semaphore sem.{prefix}-groups",
    ]
    layer = make_layer()
    layer.send("channel", {"text": "works"})
    assert layer.receive(["channel"]) == ("channel", {"text": "works"})
    layer.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def shorten_to_odd_size(path: Path) -> None:
    os.truncate(path, 1001)


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent")


@needs_shm_files
@pytest.mark.parametrize("damage", [truncate, empty, overwrite, zero, shorten_to_odd_size, replace_by_link])
def test_unlink_removes_broken_segments(
    prefix: str, damage: Callable[[Path], None], make_layer: Callable[..., IPCChannelLayer]
) -> None:
    maker = "import sys, asgi_ipc; asgi_ipc.IPCChannelLayer(sys.argv[1])"
    subprocess.run([sys.executable, "-c", maker, prefix], cwd=ROOT, check=True)
    damage(Path(SHM, f"{prefix}-messages"))
    assert main(["unlink", prefix]) == 0
    assert objects(prefix) == []


@needs_shm_files
def test_unlink_removes_semaphores_without_a_segment(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (f"/{prefix}-messages.{secrets.token_hex(12)}", f"/{prefix}-groups"):
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=1).close()
    assert main(["unlink", prefix]) == 0
    assert objects(prefix) == []


@needs_shm_files
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_unlink_keeps_objects_of_another_user(
    prefix: str, old_segments: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the segment belongs to another user, its semaphores stay too; otherwise only the semaphore stays."""
    os.chown(os.path.join(SHM, f"{prefix}-messages"), 12345, -1)
    os.chown(os.path.join(SHM, f"sem.{prefix}-groups"), 12345, -1)
    assert main(["unlink", prefix]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"removed segment {prefix}-groups\n"
    why = f"it belongs to user 12345, but you are user {os.geteuid()}: run this as its owner"
    assert captured.err.splitlines() == [
        f"asgi-ipc: not removed: segment {prefix}-messages: {why}",
        f"asgi-ipc: not removed: semaphore sem.{prefix}-groups: {why}",
    ]
    assert objects(prefix) == [f"{prefix}-messages", f"sem.{prefix}-groups", f"sem.{prefix}-messages"]


@needs_shm_files
def test_unlink_does_not_wait_indefinitely_for_a_stopped_process(
    prefix: str, monkeypatch: pytest.MonkeyPatch, make_layer: Callable[..., IPCChannelLayer]
) -> None:
    """A process that was stopped while it created or recovered a segment still holds the admin lock."""
    holder = (
        "import sys, time, asgi_ipc\n"
        "layer = asgi_ipc.IPCChannelLayer(sys.argv[1])\n"
        "layer.message_store.sections.attachment.segment.take_admin_lock(1.0)\n"
        "print('holding', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(removal, "PATIENCE", 0.1)
    with subprocess.Popen(
        [sys.executable, "-c", holder, prefix], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            assert main(["unlink", prefix]) == 0
            assert objects(prefix) == []
        finally:
            process.kill()


@needs_shm_files
def test_unlink_keeps_a_segment_that_a_running_process_creates_meanwhile(
    prefix: str, make_layer: Callable[..., IPCChannelLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that notices the tombstone creates a new segment at once, and that segment is in use."""
    remove_attached = removal._remove_attached

    def remove_attached_and_create_again(name: str, *args: Any) -> None:
        remove_attached(name, *args)
        if name.endswith("-messages"):
            old.send("channel", {"text": "in the new one"})

    monkeypatch.setattr(removal, "_remove_attached", remove_attached_and_create_again)
    old = make_layer()
    before = objects(prefix)
    assert main(["unlink", prefix]) == 0
    assert len(objects(prefix)) == 3
    assert set(objects(prefix)) & set(before) == {f"{prefix}-messages", f"{prefix}-messages.wakeup"}
    assert make_layer().receive(["channel"]) == ("channel", {"text": "in the new one"})
    old.unlink()


@needs_shm_files
def test_unlink_where_objects_have_no_files(
    prefix: str, old_segments: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(removal, "SHM_DIRECTORY", None)
    assert main(["unlink", prefix]) == 0
    assert objects(prefix) == []
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["unlink", prefix]) == 1
