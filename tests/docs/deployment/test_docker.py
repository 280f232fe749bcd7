"""The page on Docker, with a real Docker Engine: images, containers, Compose files and their effects."""

from __future__ import annotations

import pytest

from ..blocks import Section, sections
from . import site
from .docker import CONTEXT, Docker

PAGE = "deployment/docker.rst"
SECTIONS = {each.title: each for each in sections(PAGE)}
ANSWER = "{'letters': 5}\n"
#: The containers of a Compose file, as Compose names them after the directory.
WEB, WORKER = "context_web_1", "context_worker_1"
COMPOSE = ["Several containers with Compose", "Several containers with ipc:"]


def test_every_section_is_tested() -> None:
    assert set(SECTIONS) == {
        "One container",
        "Several containers with Compose",
        "Several containers with ipc:",
        "Several containers without Compose",
    }


def start(docker: Docker, shown: Section) -> None:
    """Write the files of a section, run its first console block, and wait for the worker."""
    site.put(docker.machine, shown.files, CONTEXT)
    for block in shown.blocks:
        if block.commands:
            for command in block.commands:
                docker.run(command)
            break


def test_one_container(docker: Docker) -> None:
    build, run, script = SECTIONS["One container"].commands
    assert build == "docker build -t mysite ."  # docker.py has run it
    docker.run(run)
    docker.check_browsers(script)
    docker.machine.run("docker exec web python browsers.py 2 python news.py")
    assert docker.shm("web")[1] == 256
    assert docker.machine.run("docker exec web id -u") == "1000\n"


def test_a_full_shm_is_an_exception(docker: Docker) -> None:
    is_channel_full, _, text = docker.fill("").partition(" ")
    assert is_channel_full == "True"
    assert "--shm-size" in text
    # With enough of it, the limit is message_memory, and the text does not blame /dev/shm.
    is_channel_full, _, text = docker.fill("--shm-size=256m").partition(" ")
    assert is_channel_full == "True"
    assert "message_memory" in text
    assert "--shm-size" not in text


def test_the_memory_limit_of_the_container_kills(docker: Docker) -> None:
    with pytest.raises(AssertionError, match="failed with 137"):
        docker.fill("--shm-size=256m --memory=70m --memory-swap=70m")


def test_compose_with_a_volume(docker: Docker) -> None:
    shown = SECTIONS["Several containers with Compose"]
    up, restart, script = shown.commands
    start(docker, shown)
    assert up == "docker compose up -d"
    docker.wait_for_worker(WORKER)
    assert docker.count(WEB) == ANSWER
    assert docker.shm(WEB) == docker.shm(WORKER)
    assert docker.shm(WEB)[1] == 256
    assert docker.python(WEB, site.KEEP) == "1\n"
    docker.run(restart)
    docker.check_browsers(script)
    assert docker.python(WEB, site.KEEP) == "2\n"
    assert docker.count(WEB) == ANSWER
    docker.run("docker compose stop")
    docker.run("docker compose start")
    assert docker.python(WEB, site.KEEP) == "1\n", "the contents were not removed with the last container"


@pytest.mark.parametrize("nocopy", [True, False])
def test_nocopy_keeps_the_volume_writable(docker: Docker, nocopy: bool) -> None:
    """When a second container starts while the volume is empty, Docker copies the permissions from the image."""
    shown = SECTIONS["Several containers with Compose"]
    [file] = shown.files
    assert "nocopy: true" in file.text
    changed = file.text.replace("nocopy: true", f"nocopy: {str(nocopy).lower()}")
    docker.machine.write(f"{CONTEXT}/compose.yaml", changed)
    for name in ("first", "second"):
        docker.run(f"docker compose run -d --name {name} worker sleep 60")
    if nocopy:
        assert docker.python("first", site.KEEP) == "1\n"
        assert docker.python("second", site.KEEP) == "2\n"
    else:
        with pytest.raises(AssertionError, match=r"PermissionsError|SegmentRefused"):
            docker.python("first", site.KEEP)


def test_init_lets_the_worker_stop(docker: Docker) -> None:
    """With ``--init`` and ``init: true``, the worker ends at the signal; without, Docker kills it."""
    worker = "mysite python manage.py runworker counter"
    docker.machine.run(f"docker run -d --name init --init {worker}; docker run -d --name none {worker}")
    for name, code in (("init", "143"), ("none", "137")):
        docker.wait_for_worker(name)
        docker.machine.run(f"docker stop --time 1 {name}")
        assert docker.machine.run(f"docker inspect --format '{{{{.State.ExitCode}}}}' {name}") == f"{code}\n"
    assert SECTIONS["Several containers without Compose"].commands[1].count("--init") == 1
    for title in COMPOSE:
        assert SECTIONS[title].files[0].text.count("init: true") == 1


def test_compose_with_ipc(docker: Docker) -> None:
    start(docker, SECTIONS["Several containers with ipc:"])
    docker.run("docker compose up -d")
    check_shared_ipc(docker, WEB, WORKER)


def test_ipc_without_compose(docker: Docker) -> None:
    start(docker, SECTIONS["Several containers without Compose"])
    check_shared_ipc(docker, "web", "worker")


def check_shared_ipc(docker: Docker, web: str, worker: str) -> None:
    """Check that two containers share /dev/shm, until the first restarts, and again when the other has."""
    docker.wait_for_worker(worker)
    assert docker.count(web) == ANSWER
    assert docker.shm(web) == docker.shm(worker)
    assert docker.shm(web)[1] == 256
    docker.check_browsers(f"docker exec {web} python news.py")
    docker.machine.run(f"docker restart --time 1 {web}")
    assert docker.shm(web)[0] != docker.shm(worker)[0]
    docker.machine.run(f"docker restart --time 1 {worker}")
    docker.wait_until(lambda: docker.shm(web) == docker.shm(worker), "the worker to join the new /dev/shm")
    assert docker.count(web) == ANSWER


@pytest.mark.parametrize("options", ["", "--ipc=container:web", "--ipc=container:web --user=1001"])
def test_what_is_not_shared(docker: Docker, options: str) -> None:
    """Without its option, a container shares nothing; with it, only the same user has access."""
    docker.machine.run("docker run -d --name web --ipc=shareable mysite")
    assert docker.python("web", site.KEEP) == "1\n"
    run = ["docker", "run", "--rm", *options.split(), "mysite", "python", "-c", site.KEEP]
    if "--user" in options:
        with pytest.raises(AssertionError, match="SegmentRefused"):
            docker.machine.run(run)
    else:
        assert docker.machine.run(run) == ("2\n" if options else "1\n")


def test_ipc_host_and_read_only(docker: Docker) -> None:
    command = ["docker", "run", "--rm", "--ipc=host", "--read-only", "mysite", "python", "-c", site.KEEP]
    assert docker.machine.run(command) == "1\n"
    assert docker.machine.run(command) == "2\n"
    docker.machine.run("rm -rf /dev/shm/*mysite*")
    assert docker.machine.run(["docker", "run", "--rm", "--read-only", "mysite", "python", "-c", site.KEEP]) == "1\n"


@pytest.mark.parametrize("title", COMPOSE)
def test_compose_files_follow_the_specification(title: str) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: see tests/docs/requirements.txt")
    compose_spec = pytest.importorskip("compose_spec", reason="needs compose-spec: see tests/docs/requirements.txt")
    [block] = SECTIONS[title].files
    assert set(yaml.safe_load(block.text)["services"]) == {"web", "worker"}
    compose_spec.PyCompose.from_yaml(block.text)
