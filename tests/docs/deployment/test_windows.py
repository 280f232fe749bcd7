"""The page on Windows and macOS: the settings choose a layer by platform, without asgi_ipc where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("channels.layers", reason="needs Channels 4: see tests/docs/requirements.txt")
pytest.importorskip("packaging", reason="needs packaging: see tests/docs/requirements.txt")

from packaging.requirements import Requirement

from ..blocks import sections

PAGE = "deployment/windows.rst"
SECTIONS = {each.title: each for each in sections(PAGE)}
SHOWN = SECTIONS["The in-memory layer, on Windows only"]
#: Loads the settings on a platform without posix_ipc, sends a message through the layer, and prints its class.
USE = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
real = sys.platform
sys.platform = {platform!r}
import settings
sys.platform = real  # asyncio has to run on this one

from django.conf import settings as django_settings
django_settings.configure(CHANNEL_LAYERS=settings.CHANNEL_LAYERS)
import asyncio
from channels.layers import get_channel_layer

async def main():
    layer = get_channel_layer()
    await layer.group_add("news", "reader")
    await layer.group_send("news", {{"type": "news.flash"}})
    assert await layer.receive("reader") == {{"type": "news.flash"}}
    print(type(layer).__name__)

asyncio.run(main())
"""


def test_every_section_is_tested() -> None:
    assert set(SECTIONS) == {SHOWN.title}
    assert [block.file or block.commands for block in SHOWN.blocks] == [
        "mysite/settings.py",
        "requirements.txt",
        ["uvicorn mysite.asgi:application --reload"],  # the page on servers has the same
    ]


@pytest.mark.parametrize(
    ("platform", "missing", "layer"),
    [
        ("win32", ["posix_ipc", "asgi_ipc"], "InMemoryChannelLayer"),
        ("linux", [], "AsyncIPCChannelLayer"),
        ("darwin", [], "AsyncIPCChannelLayer"),
    ],
)
def test_the_settings(tmp_path: Path, prefix: str, platform: str, missing: list[str], layer: str) -> None:
    (tmp_path / "settings.py").write_text(SHOWN.files[0].text.replace('"mysite"', repr(prefix)))
    code = USE.format(platform=platform, missing=missing)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{layer}\n", done.stderr


def test_asgi_ipc_is_needed_where_posix_ipc_can_be_installed() -> None:
    lines = [Requirement(line) for line in SHOWN.files[1].text.splitlines()]
    for platform, expected in [("win32", set()), ("linux", {"asgi_ipc"}), ("darwin", {"asgi_ipc"})]:
        needed = {each.name for each in lines if not each.marker or each.marker.evaluate({"sys_platform": platform})}
        assert needed == {"channels", "django", "uvicorn"} | expected
