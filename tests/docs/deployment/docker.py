"""A real Docker Engine on a machine, with an image in place of the one that a registry would have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..blocks import section
from . import site
from .machine import PYTHON, VENV, Machine

#: Where the images are built: the site without its virtual environment.
CONTEXT = "/srv/context"
IMAGE = Path(__file__).resolve().with_name("image.sh")
#: Without iptables, which needs modules of the kernel: Docker's proxy publishes the ports instead.
DAEMON = "dockerd --iptables=false --ip6tables=false"
#: Debian's docker-compose as a plugin, so that ``docker compose`` works as on other systems.
PLUGIN = """#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion": "0.1.0", "Vendor": "Debian", "Version": "1"}'
    exit
fi
shift
exec docker-compose "$@"
"""
PLUGIN_PATH = "/usr/local/lib/docker/cli-plugins/docker-compose"
#: Sends until the memory is full, and prints the error.
FILL = """
from asgi_ipc import IPCChannelLayer, MemoryFull
layer = IPCChannelLayer("mysite", capacity=10**6)
try:
    while True:
        layer.send("full", {"bytes": bytes(1000_000)})
except MemoryFull as error:
    print(isinstance(error, layer.ChannelFull), error)
"""


class Docker:
    """Docker on a machine, with the image ``mysite`` built as the page on Docker says."""

    def __init__(self, machine: Machine) -> None:
        for tool in ["docker", "dockerd", "docker-compose"]:
            if shutil.which(tool) is None:
                pytest.skip(f"needs {tool}: apt-get install docker.io docker-compose")
        self.machine = machine
        site.install(machine)
        machine.run(f"mkdir {CONTEXT} && cd {site.HOME} && cp -r manage.py mysite *.py {CONTEXT}")
        machine.write(PLUGIN_PATH, PLUGIN)
        machine.run(["chmod", "755", PLUGIN_PATH])
        daemon = machine.start(DAEMON)
        try:
            machine.wait_until(lambda: machine.ok("docker info"), "Docker")
        except AssertionError:
            pytest.skip(f"needs a machine on which Docker can run: {daemon.log()}")
        machine.write("/root/image.sh", IMAGE.read_text())
        machine.run(["sh", "/root/image.sh", PYTHON, VENV])
        shown = section("deployment/docker.rst", "One container")
        site.put(machine, shown.files, CONTEXT)
        self.run(shown.commands[0])

    def run(self, command: str) -> str:
        """Run a command of a page in a terminal, where the images are built."""
        return self.machine.run(["script", "-qefc", command, "/dev/null"], cwd=CONTEXT).replace("\r\n", "\n")

    def python(self, container: str, code: str) -> str:
        """Run Python code in a container."""
        return self.machine.run(["docker", "exec", container, "python", "-c", code])

    def remove_all(self) -> None:
        """Remove all containers and volumes."""
        self.machine.run("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes")
        self.machine.run("docker volume ls --quiet | xargs --no-run-if-empty docker volume rm --force")

    def shm(self, container: str) -> tuple[int, int]:
        """Return the number of the file system on a container's /dev/shm, and its size in MiB."""
        code = "import os; s = os.statvfs('/dev/shm'); print(os.stat('/dev/shm').st_dev, s.f_blocks * s.f_frsize >> 20)"
        device, size = self.python(container, code).split()
        return int(device), int(size)

    def fill(self, options: str) -> str:
        """Fill the layer in a new container with these options, and return what the process printed."""
        code = FILL.replace('"', '\\"')
        return self.machine.run(f'docker run --rm {options} mysite python -c "{code}"')

    def count(self, container: str) -> str:
        """Send a job to the ``runworker`` from a container, and return the printed answer."""
        return self.machine.run(f"docker exec {container} python count.py")

    def wait_for_worker(self, container: str) -> None:
        """Wait until the ``runworker`` in a container receives."""
        self.machine.wait_until(lambda: "Running worker" in self.machine.run(f"docker logs {container}"), "the worker")

    def check_browsers(self, script: str) -> None:
        """Check that browsers, which come through the published port, get what a script sends."""
        self.machine.run(["python", "browsers.py", "0", "script", "-qefc", script, "/dev/null"], cwd=CONTEXT)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition is true."""
        self.machine.wait_until(condition, what)
