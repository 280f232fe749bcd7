"""
The code blocks of the documentation, as docutils reads them.

How a block is written says what it is, and so how a test runs it:

- ``code-block:: LANGUAGE`` with ``:caption: some/path`` is a file of the page's project. ``:caption: some/path, at
  the end`` is appended to the file.
- ``code-block:: console`` holds commands behind ``$ `` (or ``# `` for root). Its other lines are the output of the
  command before them; ``...`` in them stands for anything. A command that ends in ``&`` keeps running.
- ``code-block:: python`` without a caption is a script, ``code-block:: pycon`` a session at the prompt.
- ``code-block:: text`` after a script or a command is its output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/docs/requirements.txt")

import docutils.core
import docutils.nodes
from docutils.parsers.rst import Directive, directives, roles

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: What a caption ends with if the block is to be appended to the file.
APPENDED = ", at the end"


@dataclass
class Block:
    """One code block."""

    language: str
    text: str
    caption: str = ""
    line: int = 0

    @property
    def file(self) -> str:
        """The path of the file that the block is, or a part of; empty if it is not a file."""
        return self.caption.removesuffix(APPENDED) if self.language != "text" else ""

    @property
    def is_appended(self) -> bool:
        """True if the block belongs at the end of the file."""
        return self.caption.endswith(APPENDED)

    @property
    def steps(self) -> list[tuple[str, str]]:
        """The commands of a console block, without their prompts, each with the output that the page shows."""
        steps: list[tuple[str, str]] = []
        for line in self.text.splitlines() if self.language == "console" else []:
            if line.startswith(("$ ", "# ")):
                steps.append((line[2:], ""))
            elif steps and steps[-1][0].endswith("\\"):
                steps[-1] = (f"{steps[-1][0]}\n{line.removeprefix('> ')}", "")
            else:
                assert steps, f"line {self.line}: a console block begins with a command, not {line!r}"
                steps[-1] = (steps[-1][0], f"{steps[-1][1]}{line}\n")
        return steps

    @property
    def commands(self) -> list[str]:
        """The commands of a console block, without their prompts."""
        return [command for command, _ in self.steps]


@dataclass
class Section:
    """A section with its own blocks, without those of its subsections."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def commands(self) -> list[str]:
        """The commands of all console blocks."""
        return [command for block in self.blocks for command in block.commands]

    @property
    def files(self) -> list[Block]:
        """The blocks that are files."""
        return [block for block in self.blocks if block.file]


class _CodeBlock(Directive):
    has_content = True
    optional_arguments = 1
    option_spec = {"caption": directives.unchanged, "name": directives.unchanged, "class": directives.unchanged}

    def run(self) -> list[docutils.nodes.Node]:
        text = "\n".join(self.content)
        node = docutils.nodes.literal_block(text, text)
        language = self.arguments[0] if self.arguments else ""
        node["block"] = Block(language, text + "\n", self.options.get("caption", ""), self.lineno)
        return [node]


class _TocTree(Directive):
    """The contents of the site, which have no code blocks."""

    has_content = True
    option_spec = {"maxdepth": directives.unchanged, "caption": directives.unchanged, "hidden": directives.flag}

    def run(self) -> list[docutils.nodes.Node]:
        return []


def _reference(name: str, rawtext: str, text: str, *_: Any, **__: Any) -> tuple[list[Any], list[Any]]:
    return [docutils.nodes.inline(rawtext, text)], []


def parse(path: Path) -> docutils.nodes.document:
    """Return the document of a page. Anything wrong in the page raises an error."""
    for name in ("code-block", "code"):
        directives.register_directive(name, _CodeBlock)
    directives.register_directive("toctree", _TocTree)
    for role in ("doc", "ref", "download"):
        roles.register_local_role(role, _reference)
    settings = {"report_level": 2, "halt_level": 2, "input_encoding": "utf-8"}
    text = path.read_text(encoding="utf-8")
    document: docutils.nodes.document = docutils.core.publish_doctree(text, str(path), settings_overrides=settings)
    return document


def blocks(path: Path) -> Iterator[tuple[str, Block]]:
    """Yield the code blocks of a page, each with the title of its section."""
    for node in parse(path).findall(docutils.nodes.literal_block):
        # A block after "::" has no language. docutils.nodes.literal_block is also what "parsed-literal" makes.
        yield _title(node), node["block"] if "block" in node else Block("", f"{node.astext()}\n", "", node.line or 0)


def sections(page: str | Path) -> list[Section]:
    """Return the sections of a page of ``docs`` that have code blocks."""
    found: list[Section] = []
    for title, block in blocks(DOCS / page):
        if not found or found[-1].title != title:
            found.append(Section(title))
        assert block.language, f"{page}, {title}: a block without a language:\n{block.text}"
        found[-1].blocks.append(block)
    return found


def section(page: str | Path, title: str) -> Section:
    """Return one section of a page."""
    for each in sections(page):
        if each.title == title:
            return each
    raise AssertionError(f"docs/{page} has no section {title!r} with code blocks")


def _title(node: docutils.nodes.Node) -> str:
    while not isinstance(node, (docutils.nodes.section, docutils.nodes.document)):
        node = node.parent
    title = node.next_node(docutils.nodes.title)
    return title.astext() if title else ""
