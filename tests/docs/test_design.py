"""``docs/design.rst`` names the modules, classes and functions that the package has, and all of its modules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "asgi_ipc"
PAGES = [ROOT / "docs" / "design.rst", ROOT / "docs" / "design-performance.rst"]
TEXT = PAGES[0].read_text(encoding="utf-8")

#: Parts of folders that the map describes in one line, without their modules.
IN_ONE_LINE = ("check", "demo", "cli")


def block(caption: str) -> str:
    """Return the lines of the block with this caption."""
    found = re.search(rf":caption: {caption}\n\n((?:    .*\n|\n)+)", TEXT)
    assert found, f"design.rst has no block {caption!r}"
    return found[1]


def definitions() -> dict[str, set[str]]:
    """Return the functions and attributes that the code of each class of the package names."""
    classes: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = classes.setdefault(node.name, set())
                for each in ast.walk(node):
                    if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        names.add(each.name)
                    elif isinstance(each, ast.Attribute):
                        names.add(each.attr)
    return classes


CLASSES = definitions()


def test_the_map_has_every_module_and_no_other() -> None:
    listed: set[str] = set()
    folder = ""
    for line in block("The modules").splitlines():
        if not line.strip():
            continue
        indented = line.startswith("        ")
        for name in re.split(r",\s*", line.strip().split("  ")[0]):
            if name.endswith("/"):
                folder = name.rstrip("/").replace("/", ".")
                listed.add(folder)
            else:
                listed.add(f"{folder}.{name}" if indented else name)
    there = set()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1].startswith("__"):
            parts = parts[:-1]  # a folder; of __init__ and __main__ nothing is said
        if parts:
            there.add(".".join(parts[:1] if parts[0] in IN_ONE_LINE else parts))
    assert listed == there


def test_what_holds_what_names_classes() -> None:
    named = set(re.findall(r"\b[A-Z][a-z]+[A-Za-z]*\b", re.sub(r"\(.*?\)", "", block("What holds what"))))
    assert named
    assert named <= set(CLASSES) | {"FIFOs"}


def test_the_protocol_names_words_of_the_mutex() -> None:
    code = "".join((PACKAGE / path).read_text(encoding="utf-8") for path in ("shm/layout.py", "locking/mutex.py"))
    words = set(re.findall(r"\b[A-Z]{3,}\b", block("The protocol of the mutex")))
    assert words == {"EPOCH", "SEQ"}
    for word in words:
        assert f"AT_{word}" in code


def test_every_method_that_the_pages_name_exists() -> None:
    missing = []
    for page in PAGES:
        for owner, name in re.findall(r"``([A-Z]+[a-z][A-Za-z]*)\.([A-Za-z_]+)", page.read_text(encoding="utf-8")):
            if owner in CLASSES and name in CLASSES[owner]:
                continue
            missing.append(f"{page.name}: {owner}.{name}")
    assert not missing


def test_every_file_that_the_pages_name_exists() -> None:
    for page in PAGES:
        for path in re.findall(r"``((?:tests|docs|check|shm|stores)/[\w/.]+?)``", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists() or (PACKAGE / path).exists(), f"{page.name}: {path}"
