"""
A machine for one test: a throw-away copy of this one, made of Linux namespaces.

It has this machine's files, but what it writes is lost. It has its own users, ``/dev/shm``, network and
processes, and a running systemd if asked for. So a test can run the commands of a page as they stand, with the
ports, paths, users and prefixes that the page names, whatever else runs on the host. When the machine ends, the kernel
kills its processes and drops its mounts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers.cgroups import ControlGroups, hierarchies

import asgi_ipc

#: Seconds after which a command counts as stuck.
LIMIT = 60.0
#: Where the machine has the virtual environment that runs the tests, and the Python that this is based on. They
#: are there because a service may not be able to see the directories of users and temporary files.
VENV = "/srv/mysite/.venv"
PYTHON = "/usr/local/python"
SETUP = Path(__file__).resolve().with_name("machine.sh")
NAMESPACES = ["mount", "pid", "net", "uts", "ipc", "cgroup"]
SYSTEMD = "/lib/systemd/systemd"
#: Units that would change the kernel's settings, which are the host's, or that no test needs.
MASKS = """
    dbus.service dbus.socket dev-hugepages.mount dev-mqueue.mount kmod-static-nodes.service
    proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount
    sys-kernel-debug.mount sys-kernel-tracing.mount systemd-ask-password-console.path
    systemd-ask-password-wall.path systemd-binfmt.service systemd-hwdb-update.service
    systemd-journal-flush.service systemd-journald-audit.socket systemd-journald-dev-log.socket
    systemd-journald.service systemd-journald.socket systemd-machine-id-commit.service
    systemd-modules-load.service systemd-pstore.service systemd-random-seed.service
    systemd-remount-fs.service systemd-sysctl.service systemd-sysusers.service systemd-timesyncd.service
    systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup.service systemd-udev-trigger.service
    systemd-udevd.service systemd-update-utmp.service
"""
#: Brings up the loopback interface, as ``ip link set lo up`` does: SIOCSIFFLAGS with IFF_UP.
LOOPBACK = """
import fcntl, socket, struct
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))
"""


def _needed() -> list[Path]:
    """Return the directories from which the machine gets Python and its packages."""
    package = Path(asgi_ipc.__file__).resolve().parents[1]
    return sorted({Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), package})


def _skip_if_not_possible(systemd: bool) -> None:
    for tool in ["unshare", "nsenter", "pivot_root", "runuser", "useradd"]:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: apt-get install util-linux passwd")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make namespaces, mounts and users")
    if subprocess.run(["unshare", *(f"--{each}" for each in NAMESPACES), "true"], capture_output=True).returncode:
        pytest.skip("needs permission to make namespaces")
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs a kernel with overlayfs")
    if systemd and not os.path.exists(SYSTEMD):
        pytest.skip("needs systemd: apt-get install systemd")
    if not any(each.match("/sys/fs/cgroup/systemd*") for each in hierarchies()):
        pytest.skip("needs the hierarchies of cgroup v1")


class Started:
    """A command that keeps running in a machine."""

    def __init__(self, machine: Machine, command: str, file: str, process: subprocess.Popen[bytes]) -> None:
        self._machine = machine
        self.command = command
        self._file = file
        self._process = process

    def log(self) -> str:
        """Return what the command has printed. There is no file until its shell has run."""
        return self._machine.run(f"test ! -e {self._file}.log || cat {self._file}.log")

    def stop(self) -> None:
        """End the command as systemd and Docker do, with SIGTERM, and wait for it."""
        self._machine.run(f"kill $(cat {self._file}.pid)")
        try:
            self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} did not end on SIGTERM:\n{self.log()}") from None


class Machine:
    """A running machine. Use it with ``with``."""

    def __init__(self, systemd: bool = False) -> None:
        _skip_if_not_possible(systemd)
        self.path = f"{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._started: list[subprocess.Popen[bytes]] = []
        self._directory = Path(tempfile.mkdtemp(prefix="asgi-ipc-machine-"))
        self._groups = ControlGroups(self._directory.name)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by end
        init = [SYSTEMD, "--system", "--unit=machine.target", "--show-status=no", "--log-target=console"]
        command = init if systemd else ["sleep", "infinity"]
        root = os.stat("/").st_dev
        self._unshare = subprocess.Popen(
            [
                *["unshare", "--fork", "--kill-child", *(f"--{each}" for each in NAMESPACES)],
                *["sh", str(SETUP), str(self._directory), *command],
            ],
            env={
                "PATH": self.path,
                "container": "test",
                "MACHINE_MASKS": " ".join(MASKS.split()),
                "MACHINE_KEEPS": " ".join(str(each) for each in _needed() if each.stat().st_dev != root),
            },
            preexec_fn=self._groups.enter,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            self._pid = self._find_process_1()
            up = (lambda: self.ok("systemctl is-active machine.target")) if systemd else (lambda: True)
            self.wait_until(lambda: os.path.basename(self._command()) in ("systemd", "sleep"), "it to be set up")
            self.wait_until(up, "systemd")
            self._install_python()
            self.run(["python", "-c", LOOPBACK])
        except BaseException:
            self.end()
            raise

    def _install_python(self) -> None:
        """Put the virtual environment of the tests where the machine's users and services can see it."""
        packages = sysconfig.get_path("purelib")
        library = f"{VENV}/lib/{os.path.basename(os.path.dirname(packages))}/site-packages"
        package = os.path.dirname(os.path.realpath(asgi_ipc.__file__))
        script = f"""
            mkdir -p {PYTHON} {VENV}/bin {library}
            mount --bind {sys.base_prefix} {PYTHON}
            mount --bind {packages} {library}
            [ -e {library}/asgi_ipc ] || cp -r {package} {library}/asgi_ipc   # it may be an editable install
            ln -sf {PYTHON}/lib/libpython*.so* /usr/lib/   # where the dynamic linker looks without ldconfig
            ln -s {PYTHON}/bin/python{sys.version_info[0]}.{sys.version_info[1]} {VENV}/bin/python
            echo 'home = {PYTHON}/bin' >{VENV}/pyvenv.cfg
            cd {sys.prefix}/bin
            for script in $(grep -lI '^#!.*python' *); do
                sed '1s|^.*$|#!{VENV}/bin/python|' "$script" >{VENV}/bin/"$script"
                chmod 755 {VENV}/bin/"$script"
            done
        """
        self.run("set -e\n" + script)

    def _find_process_1(self) -> int:
        """Return the process id that process 1 of the machine has on the host."""
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.wait_until(lambda: bool(children.read_text().split()), "its first process")
        return int(children.read_text().split()[0])

    def _command(self) -> str:
        return Path(f"/proc/{self._pid}/cmdline").read_text().split("\0")[0]

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the machine: the kernel kills all its processes with its first one."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._unshare.pid, signal.SIGKILL)
        for process in [self._unshare, *self._started]:
            process.wait(LIMIT)
        self._log.close()
        self._groups.remove()
        self._directory.rmdir()

    def log(self) -> str:
        """Return what process 1 has printed."""
        self._log.seek(0)
        return self._log.read()

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition is true; fail the test after ``LIMIT`` seconds."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > deadline or self._unshare.poll() is not None:
                raise AssertionError(f"timed out waiting for {what}:\n{self.log()}")
            time.sleep(0.02)

    def _enter(self, command: str | Sequence[str], user: str, cwd: str) -> list[str]:
        """Return the command that runs ``command`` in the machine."""
        enter = ["nsenter", "--target", str(self._pid), *(f"--{each}" for each in NAMESPACES)]
        environment = ["env", "--ignore-environment", f"--chdir={cwd}", f"PATH={self.path}", f"HOME={cwd}"]
        settings = ["LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", "PIP_NO_INDEX=1", "PIP_DISABLE_PIP_VERSION_CHECK=1"]
        as_user = [] if user == "root" else ["runuser", f"--user={user}", "--"]
        return [*enter, "--", *environment, *settings, *as_user, *self._arguments(command)]

    @staticmethod
    def _arguments(command: str | Sequence[str]) -> Sequence[str]:
        return ["bash", "-c", command] if isinstance(command, str) else command

    def run(self, command: str | Sequence[str], user: str = "root", cwd: str = "/", check: bool = True) -> str:
        """
        Run a command in the machine, and return what it has printed, to either stream.

        A ``str`` is for the shell. With ``check``, a command that fails fails the test.
        """
        entered = self._enter(command, user, cwd)
        done = subprocess.run(
            entered,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            preexec_fn=self._groups.enter,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def ok(self, command: str | Sequence[str], user: str = "root", cwd: str = "/") -> bool:
        """Run a command in the machine; True if it succeeds."""
        try:
            self.run(command, user, cwd)
        except AssertionError:
            return False
        return True

    def start(self, command: str, user: str = "root", cwd: str = "/") -> Started:
        """Start a command in the machine that keeps running, such as a server."""
        file = f"/tmp/started-{len(self._started)}"
        with_id = f"echo $$ >{file}.pid; exec {command} >{file}.log 2>&1"
        entered = self._enter(with_id, user, cwd)
        self._started.append(subprocess.Popen(entered, stdin=subprocess.DEVNULL, preexec_fn=self._groups.enter))
        return Started(self, command, file, self._started[-1])

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1"'
        entered = self._enter(["sh", "-c", script, "sh", path], "root", "/")
        subprocess.run(entered, input=text, text=True, check=True, timeout=LIMIT)
