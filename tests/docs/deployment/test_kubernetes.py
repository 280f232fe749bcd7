"""The page on Kubernetes: its manifest is valid, and its containers share a layer with the volume it describes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ..blocks import section
from .docker import Docker

PAGE = "deployment/kubernetes.rst"
#: Which versions of Kubernetes the manifest must be valid for.
VERSIONS = ["1.29", "1.33"]
yaml = pytest.importorskip("yaml", reason="needs PyYAML: see tests/docs/requirements.txt")
MANIFEST: dict[str, Any] = yaml.safe_load(section(PAGE, "One pod, several containers").files[0].text)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifest_is_valid(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    validate.validate(MANIFEST, version, strict=True)
    assert MANIFEST["spec"]["selector"]["matchLabels"] == MANIFEST["spec"]["template"]["metadata"]["labels"]


def run_pod(docker: Docker, spec: dict[str, Any]) -> None:
    """
    Start the containers of a pod as a node does.

    They share the network of one container. An ``emptyDir`` with the medium ``Memory`` is a tmpfs of
    ``sizeLimit``, with mode 0777.
    """
    [volume] = spec["volumes"]
    assert volume["emptyDir"]["medium"] == "Memory"
    size = volume["emptyDir"]["sizeLimit"].replace("Mi", "m")
    options = f"--opt type=tmpfs --opt device=tmpfs --opt o=size={size},mode=0777"
    docker.machine.run(f"docker volume create {options} {volume['name']}")
    user = spec["securityContext"]
    network = ""
    for container in spec["containers"]:
        mounts = " ".join(f"--volume {each['name']}:{each['mountPath']}:nocopy" for each in container["volumeMounts"])
        memory = container["resources"]["limits"]["memory"].replace("Mi", "m")
        name, command = container["name"], " ".join(container.get("command", []))
        docker.machine.run(
            f"docker run -d --name {name} {network} {mounts} --memory {memory} "
            f"--user {user['runAsUser']}:{user['runAsGroup']} {container['image']} {command}"
        )
        network = network or f"--network container:{name}"


def test_the_containers_of_the_pod_share_a_layer(docker: Docker) -> None:
    run_pod(docker, MANIFEST["spec"]["template"]["spec"])
    docker.wait_for_worker("worker")
    assert docker.count("web") == "{'letters': 5}\n"
    assert docker.shm("web") == docker.shm("worker")
    assert docker.shm("web")[1] == 256
    [command] = section(PAGE, "Send from a script").commands
    script = re.sub(r"^kubectl exec deploy/mysite -c (\w+) --", r"docker exec \1", command)
    assert script == "docker exec web python news.py"
    docker.machine.run(["docker", "exec", "web", "python", "browsers.py", "2", *script.split()[3:]])

    docker.python("web", "import asgi_ipc; asgi_ipc.IPCChannelLayer('mysite').send('kept', {'n': 1})")
    docker.machine.run("docker restart --time 1 web")
    look = "import asgi_ipc; print(asgi_ipc.IPCChannelLayer('mysite').receive(['kept']))"
    assert docker.python("web", look) == "('kept', {'n': 1})\n", "a container that restarts finds the layer as it was"

    is_channel_full, _, text = docker.fill("--volume layer:/dev/shm:nocopy --user 1000:1000").partition(" ")
    assert is_channel_full == "True"
    assert "message_memory" in text, "the volume has room for the default message_memory"


def test_there_is_one_pod_at_a_time() -> None:
    """Each pod has a volume of its own."""
    assert MANIFEST["spec"]["replicas"] == 1
    assert MANIFEST["spec"]["strategy"] == {"type": "Recreate"}
