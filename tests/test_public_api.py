"""The public API of the package: names, signatures, types, metadata."""

from __future__ import annotations

import ast
import asyncio
import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asgi_ipc
from asgi_ipc import AsyncIPCChannelLayer, IPCChannelLayer

ROOT = Path(__file__).parent.parent
TYPING_API = Path(__file__).with_name("typing_api.py")

#: Methods that the two front ends share and that programs do not call.
FOR_FRONT_ENDS = {"check_names", "decode", "log_missed", "open_hubs", "remember_capacity", "with_capacities"}

OPTIONS = [
    ("prefix", "asgi"),
    ("expiry", 60),
    ("group_expiry", 86400),
    ("capacity", 100),
    ("channel_capacity", None),
    ("message_memory", 100 * 1024 * 1024),
    ("group_memory", 20 * 1024 * 1024),
]
KEYWORD_OPTIONS = {"mode": 0o600, "message_limit": None, "patience": 10}


def public_methods(front_end: type = IPCChannelLayer) -> set[str]:
    found = inspect.getmembers(front_end, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")} - FOR_FRONT_ENDS


def options_of(front_end: type) -> dict[Any, Any]:
    """Return the options by kind of parameter: names and defaults, in order."""
    found: dict[Any, Any] = {}
    for each in inspect.signature(front_end).parameters.values():
        found.setdefault(each.kind, []).append((each.name, each.default))
    return found


def test_the_public_names_are_exactly_those_in_all() -> None:
    exported = {
        name
        for name, value in vars(asgi_ipc).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert exported - {"annotations"} == set(asgi_ipc.__all__) - {"__version__"}
    assert asgi_ipc.__all__ == sorted(asgi_ipc.__all__)


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from asgi_ipc import *", names)
    assert set(names) - {"__builtins__"} == set(asgi_ipc.__all__)


def test_options_have_the_order_of_asgi_ipc_1() -> None:
    assert options_of(IPCChannelLayer) == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD: OPTIONS,
        inspect.Parameter.KEYWORD_ONLY: [*KEYWORD_OPTIONS.items(), ("block_timeout", 5)],
    }


def test_asynchronous_layer_takes_the_same_options() -> None:
    assert options_of(AsyncIPCChannelLayer) == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD: OPTIONS,
        inspect.Parameter.KEYWORD_ONLY: [*KEYWORD_OPTIONS.items()],
    }


def test_methods_are_those_of_the_contract() -> None:
    assert public_methods() == {
        "send",
        "receive",
        "receive_async",
        "receive_twisted",
        "receive_many",
        "new_channel",
        "group_add",
        "group_discard",
        "group_channels",
        "send_group",
        "flush",
        "global_statistics",
        "channel_statistics",
        "close",
        "unlink",
        "get_capacity",
        "compile_capacities",
        "valid_channel_name",
        "valid_channel_names",
        "valid_group_name",
        "match_type_and_length",
        "non_local_name",
    }


def test_asynchronous_methods_are_those_of_the_contract() -> None:
    methods = public_methods(AsyncIPCChannelLayer)
    assert methods == {
        "send",
        "receive",
        "new_channel",
        "group_add",
        "group_discard",
        "group_channels",
        "group_send",
        "flush",
        "close",
        "unlink",
    }
    assert all(inspect.iscoroutinefunction(getattr(AsyncIPCChannelLayer, name)) for name in methods)
    assert inspect.iscoroutinefunction(IPCChannelLayer.receive_async)


def test_parameters_are_called_as_channels_calls_them() -> None:
    """Channels and its users may pass them by keyword."""
    named = {
        name: list(inspect.signature(getattr(AsyncIPCChannelLayer, name)).parameters)[1:]
        for name in public_methods(AsyncIPCChannelLayer)
    }
    assert named == {
        "send": ["channel", "message"],
        "receive": ["channel"],
        "new_channel": ["prefix"],
        "group_add": ["group", "channel"],
        "group_discard": ["group", "channel"],
        "group_channels": ["group"],
        "group_send": ["group", "message"],
        "flush": [],
        "close": [],
        "unlink": [],
    }
    assert inspect.signature(AsyncIPCChannelLayer.new_channel).parameters["prefix"].default == "specific"


def test_attributes_are_those_of_the_contract(make_layer: object) -> None:
    assert callable(make_layer)
    layer = make_layer(expiry=1.5, group_expiry=7, capacity=3)
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (1.5, 7, 3)
    assert layer.ChannelFull is asgi_ipc.ChannelFull
    assert layer.MessageTooLarge is asgi_ipc.MessageTooLarge
    assert {"groups", "flush", "statistics", "async"} <= set(layer.extensions)
    assert ("twisted" in layer.extensions) == bool(importlib.util.find_spec("twisted"))
    layer.unlink()


def test_attributes_of_the_asynchronous_layer_are_those_of_the_contract(prefix: str) -> None:
    layer = AsyncIPCChannelLayer(
        prefix, expiry=1.5, group_expiry=7, capacity=3, message_memory=1 << 20, group_memory=1 << 18
    )
    assert (layer.prefix, layer.expiry, layer.group_expiry, layer.capacity) == (prefix, 1.5, 7, 3)
    assert layer.ChannelFull is asgi_ipc.ChannelFull
    assert layer.MessageTooLarge is asgi_ipc.MessageTooLarge
    assert layer.extensions == ["groups", "flush"]
    asyncio.run(layer.unlink())
    asyncio.run(layer.close())


@pytest.mark.parametrize("name", ["GroupStoreFull", "MemoryFull"])
def test_full_stores_are_subclasses_of_channel_full(name: str) -> None:
    assert issubclass(getattr(asgi_ipc, name), asgi_ipc.ChannelFull)


def test_every_public_name_has_a_docstring() -> None:
    undocumented = [
        f"{front_end.__name__}.{name}"
        for front_end in (IPCChannelLayer, AsyncIPCChannelLayer)
        for name in public_methods(front_end)
        if not getattr(front_end, name).__doc__
    ]
    undocumented += [
        name for name in asgi_ipc.__all__ if not (name == "__version__" or getattr(asgi_ipc, name).__doc__)
    ]
    assert undocumented == []


# -- types ---------------------------------------------------------------------------------------------------


def test_package_is_marked_as_typed() -> None:
    assert Path(asgi_ipc.__file__).with_name("py.typed").exists()


def test_typed_program_uses_the_whole_public_api() -> None:
    tree = ast.parse(TYPING_API.read_text())
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(asgi_ipc.__all__) | public_methods() | public_methods(AsyncIPCChannelLayer) <= used
    assert {name for name, _ in [*OPTIONS, *KEYWORD_OPTIONS.items()]} | {"block_timeout"} <= {
        node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)
    }


def test_typed_program_passes_mypy() -> None:
    pytest.importorskip("mypy", reason="needs mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", str(TYPING_API)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# -- metadata ------------------------------------------------------------------------------------------------


def metadata() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("asgi_ipc")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed, only imported from a checkout")


def test_versions_agree() -> None:
    assert metadata().version == asgi_ipc.__version__


def test_nothing_is_required_but_posix_ipc_and_msgpack() -> None:
    required = [line for line in metadata().requires or [] if "extra ==" not in line]
    assert sorted(line.replace("-", "_").rstrip(".0123456789").rstrip("<>=") for line in required) == [
        "msgpack",
        "posix_ipc",
    ]


def test_every_package_is_installed() -> None:
    """A folder without ``__init__.py`` would be missing after an installation."""
    assert "packages = find:\n" in (ROOT / "setup.cfg").read_text()
    folders = {path.parent for path in Path(asgi_ipc.__file__).parent.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_changelog_has_the_version() -> None:
    assert f"\n{asgi_ipc.__version__} " in (ROOT / "CHANGELOG.rst").read_text()


def test_the_docs_list_every_option_with_its_default() -> None:
    text = (ROOT / "docs" / "options.rst").read_text()
    spellings = {"asgi": '"asgi"', 0o600: "0o600"}
    listed = re.findall(r"^   \* - ``(\w+)``\n     - ``(.*?)``", text, re.MULTILINE)
    parameters = inspect.signature(IPCChannelLayer).parameters
    assert sorted(listed) == sorted(
        (name, spellings.get(parameter.default, repr(parameter.default))) for name, parameter in parameters.items()
    )
