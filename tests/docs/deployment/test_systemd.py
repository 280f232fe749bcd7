"""The page on systemd, with a real systemd: units, drop-ins, and what they do to the layer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..blocks import sections
from . import site
from .machine import Machine

PAGE = "deployment/systemd.rst"
SECTIONS = {each.title: each for each in sections(PAGE)}
UNITS = "mysite-web mysite-worker"
#: Prints which file system a service sees on /dev/shm.
SHM = "import os; print('shm', os.stat('/dev/shm').st_dev)"


def test_every_section_is_tested() -> None:
    assert set(SECTIONS) == {
        "Two units",
        "Scripts and timers",
        "RemoveIPC at logout",
        "Sandboxing",
        "Options that hide /dev/shm",
        "MemoryMax=",
    }


@pytest.fixture(scope="module")
def running() -> Iterator[Machine]:
    """A machine with the two units, started as the page says."""
    shown = SECTIONS["Two units"]
    add_user, *start = shown.commands
    with Machine(systemd=True) as machine:
        machine.run(add_user)
        site.install(machine, "mysite")
        site.put(machine, shown.files)
        for command in start:
            machine.run(command)
        yield machine


@pytest.fixture
def machine(running: Machine) -> Iterator[Machine]:
    """The same; what a test adds to the units is removed after it, and the layer, too."""
    yield running
    running.run(f"systemctl stop {UNITS}; rm -rf /etc/systemd/system/mysite-*.service.d; rm -rf /dev/shm/*mysite*")
    running.run(f"systemctl daemon-reload; systemctl start {UNITS}")


def restart(machine: Machine) -> None:
    """Restart both units with what was added to them."""
    machine.run(f"systemctl daemon-reload; systemctl restart {UNITS}")


def check(machine: Machine) -> None:
    """Check that the web workers, the background worker and scripts share one layer."""
    machine.wait_until(lambda: machine.ok(f"systemctl is-active {UNITS}"), "the units")
    site.check(machine, 2, "mysite")
    assert machine.run("python count.py", "mysite", site.HOME) == "{'letters': 5}\n"
    assert machine.run(f"systemctl show --property=NRestarts --value {UNITS}").split() == ["0", "0"]


def drop_in(machine: Machine, options: str, unit: str = "mysite-worker") -> None:
    """Add options to the service section of a unit."""
    machine.write(f"/etc/systemd/system/{unit}.service.d/test.conf", f"[Service]\n{options}\n")


def seen_by(machine: Machine, options: str) -> str:
    """Return what a service with these options sees on /dev/shm."""
    service = f"[Service]\nUser=mysite\nType=oneshot\nExecStart=/srv/mysite/.venv/bin/python -c \"{SHM}\"\n"
    machine.write("/run/systemd/system/sees.service", service + f"StandardOutput=file:/run/seen\n{options}\n")
    machine.run("rm -f /run/seen; systemctl daemon-reload; systemctl start sees; systemctl stop sees", check=False)
    return machine.run("cat /run/seen", check=False).strip()


def test_the_files_are_correct(running: Machine) -> None:
    files = [file for each in SECTIONS.values() for file in each.files]
    with Machine() as machine:  # not the one whose units run
        machine.run(["useradd", "--system", "mysite"])
        site.put(machine, files)
        units = [file.file for file in files if file.file.endswith((".service", ".timer"))]
        assert len(units) == 4
        assert machine.run(["systemd-analyze", "verify", *units]) == ""  # with all drop-ins
        shown = machine.run("systemd-analyze cat-config systemd/logind.conf")
        assert shown.rindex("\nRemoveIPC=no\n") > shown.index("[Login]")


def test_two_units_share_the_layer(machine: Machine) -> None:
    check(machine)
    for pid in machine.run(f"systemctl show --property=MainPID --value {UNITS}").split():
        assert machine.run(f"stat -c %U /proc/{pid}") == "mysite\n"


def test_scripts_and_timers(machine: Machine) -> None:
    shown = SECTIONS["Scripts and timers"]
    site.put(machine, shown.files)
    machine.run("systemctl daemon-reload")
    machine.write("/srv/mysite/script.sh", shown.commands[0] + "\n")
    site.check(machine, 0, "root", "bash /srv/mysite/script.sh")
    site.check(machine, 0, "root", "systemctl start mysite-news.service")
    machine.run("systemctl start mysite-news.timer")
    assert "06:00:00" in machine.run("systemctl list-timers mysite-news.timer")


def test_a_script_of_root_is_refused(machine: Machine) -> None:
    check(machine)
    with pytest.raises(AssertionError, match=r"SegmentRefused: .* belongs to user"):
        machine.run(".venv/bin/python news.py", cwd=site.HOME)


def test_sandboxing(machine: Machine) -> None:
    [shown] = SECTIONS["Sandboxing"].files
    site.put(machine, [shown])
    machine.write(shown.file.replace("web", "worker"), shown.text)
    restart(machine)
    check(machine)
    options = [line for line in shown.text.splitlines() if "=" in line]
    properties = {line.partition("=")[0] for line in options}
    unit = machine.run(f"systemctl show mysite-web --property={','.join(properties)}")
    assert len(unit.splitlines()) == len(options) > 10
    for line in options[:-3]:  # the last ones are lists, which systemd writes out
        assert line in unit or line.endswith("strict"), line


def test_memory_of_the_layer_counts(machine: Machine) -> None:
    site.put(machine, SECTIONS["MemoryMax="].files)
    restart(machine)
    check(machine)
    group = "/sys/fs/cgroup/memory/system.slice"
    assert machine.run(f"cat {group}/mysite-web.service/memory.limit_in_bytes") == f"{1 << 30}\n"
    fill = "l = __import__('asgi_ipc').IPCChannelLayer('fill', capacity=10**6); "
    fill += "[l.send('full', {'b': bytes(10**6)}) for _ in range(60)]; __import__('time').sleep(60)"
    service = f"[Service]\nUser=mysite\nExecStart=/srv/mysite/.venv/bin/python -c \"{fill}\"\n"

    def used() -> int:
        return int(machine.run(["cat", f"{group}/fill.service/memory.usage_in_bytes"]))

    def status() -> str:
        return machine.run("systemctl show --property=ExecMainStatus --value fill").strip()

    machine.write("/run/systemd/system/fill.service", f"{service}MemoryMax=1G\n")
    machine.run("systemctl daemon-reload; systemctl start fill")
    machine.wait_until(lambda: used() > 60 * 10**6, "the layer's memory to be counted")
    machine.run("systemctl stop fill; rm -rf /dev/shm/*fill*")
    machine.write("/run/systemd/system/fill.service", f"{service}MemoryMax=40M\n")
    machine.run("systemctl daemon-reload; systemctl start fill")
    machine.wait_until(lambda: status() == "9", "the kernel to kill the service")
    machine.run("rm -rf /dev/shm/*fill*")


@pytest.mark.parametrize("option", ["TemporaryFileSystem=/dev/shm", "TemporaryFileSystem=/dev"])
def test_options_that_hide_shm(machine: Machine, option: str) -> None:
    here = machine.run(["python", "-c", SHM]).strip()
    assert seen_by(machine, "") == here
    hidden = seen_by(machine, option)
    assert hidden.startswith("shm ") or option.endswith("/dev")
    assert hidden != here
    assert seen_by(machine, f"{option}\nBindPaths=/dev/shm") == here


def test_bind_paths_bring_shm_back(machine: Machine) -> None:
    [shown] = SECTIONS["Options that hide /dev/shm"].files
    site.put(machine, [shown])
    restart(machine)
    check(machine)


@pytest.mark.parametrize("option", ["RemoveIPC=yes", "DynamicUser=yes"])
def test_remove_ipc_of_a_unit(machine: Machine, option: str) -> None:
    for unit in UNITS.split():
        drop_in(machine, option, unit)
    restart(machine)
    check(machine)
    assert machine.run(["python", "-c", site.KEEP], "mysite") == "1\n"
    machine.run("systemctl stop mysite-worker")
    assert machine.run(["python", "-c", site.KEEP], "mysite") == "2\n", "removed while the other unit ran"
    machine.run("systemctl stop mysite-web")
    assert "mysite" not in machine.run("ls /dev/shm")


def test_without_remove_ipc_the_layer_stays(machine: Machine) -> None:
    check(machine)
    assert machine.run(["python", "-c", site.KEEP], "mysite") == "1\n"
    machine.run(f"systemctl stop {UNITS}")
    assert machine.run(["python", "-c", site.KEEP], "mysite") == "2\n"
