"""The pytest fixtures of the package, used as by a project that has it installed."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.segments import needs_files

import asgi_ipc

pytest_plugins = ["pytester"]


def is_registered() -> bool:
    try:
        points = importlib.metadata.distribution("asgi_ipc").entry_points
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(point.group == "pytest11" for point in points)


pytestmark = pytest.mark.skipif(not is_registered(), reason="asgi_ipc is not installed, only imported from a checkout")


def left_by_tests() -> list[str]:
    return [name for name in os.listdir("/dev/shm") if f"pytest-{os.getpid()}-" in name]


def test_layers_exchange_messages(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio

        def test_both_front_ends(ipc_prefix, ipc_layer, ipc_channel_layer):
            assert ipc_layer.prefix == ipc_channel_layer.prefix == ipc_prefix
            ipc_layer.send("to-async", {"n": 1})
            async def answer():
                message = await ipc_channel_layer.receive("to-async")
                await ipc_channel_layer.send("to-sync", {"n": message["n"] + 1})
            asyncio.run(answer())
            assert ipc_layer.receive(["to-sync"]) == ("to-sync", {"n": 2})

        def test_a_script_that_is_tested(ipc_prefix, ipc_layer):
            from asgi_ipc import IPCChannelLayer
            with IPCChannelLayer(ipc_prefix) as other:
                other.send("a", {"n": 1})
            assert ipc_layer.receive(["a"]) == ("a", {"n": 1})
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_every_test_has_its_own_prefix(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("turn", range(3))
        def test_fresh(turn, ipc_layer):
            assert ipc_layer.receive(["a"]) == (None, None)
            assert ipc_layer.group_channels("g") == []
            ipc_layer.send("a", {"turn": turn})
            ipc_layer.group_add("g", "a")
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


@needs_files
def test_shared_memory_is_removed_after_every_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        from asgi_ipc import IPCChannelLayer

        def there(prefix):
            return [name for name in os.listdir("/dev/shm") if prefix in name]

        def test_unused(ipc_prefix):
            assert not there(ipc_prefix)

        def test_fails(ipc_prefix, ipc_layer, ipc_channel_layer):
            assert not there(ipc_prefix)

        def test_leaves_a_layer_open(ipc_prefix):
            global left
            left = IPCChannelLayer(ipc_prefix, mode=0o660)
            assert there(ipc_prefix)

        def test_removes_it_itself(ipc_prefix, ipc_layer):
            ipc_layer.unlink()
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3, failed=1)
    assert left_by_tests() == []


def test_options_are_overridden_by_a_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def ipc_options():
            return {"capacity": 2, "message_memory": 1 << 20}

        def test_capacity(ipc_layer, ipc_channel_layer):
            assert ipc_layer.capacity == ipc_channel_layer.capacity == 2
            ipc_layer.send("a", {})
            ipc_layer.send("a", {})
            with pytest.raises(ipc_layer.ChannelFull):
                ipc_layer.send("a", {})
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_fixtures_are_described(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_inprocess("--fixtures").stdout.str()
    for name in ("ipc_prefix", "ipc_layer", "ipc_channel_layer", "ipc_channel_layers", "ipc_options"):
        line = next(line for line in listed.splitlines() if line.startswith(f"{name} "))
        assert "pytest_plugin.py" in line


def test_a_project_can_disable_the_plugin(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_inprocess("-p", "no:asgi_ipc", "--fixtures").stdout.str()
    assert "ipc_prefix" not in listed


def test_loading_the_plugin_imports_no_framework(tmp_path: Path) -> None:
    """Every run of pytest in the environment loads the plugin, so it must not slow that run down."""
    for name in ("channels", "django", "asgiref", "twisted"):
        (tmp_path / f"{name}.py").touch()
    paths = [str(Path(asgi_ipc.__file__).parents[1]), str(tmp_path)]
    code = f"import sys; sys.path[:0] = {paths!r}; import asgi_ipc.pytest_plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "asgi_ipc.pytest_plugin" in loaded
    assert loaded & {"channels", "django", "asgiref", "twisted", "asgi_ipc.cli"} == set()


def test_a_project_without_channels_is_told_what_is_missing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(channels="raise ImportError('not installed')")
    pytester.makepyfile(test_it="def test_it(ipc_channel_layers): pass")
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*the fixture ipc_channel_layers needs Channels 2 to 4*asgi_ipc?channels?*"])
