"""Every code block of the documentation is exercised by a test, or the table below says why it is not."""

from __future__ import annotations

import ast
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/docs/requirements.txt")

import docutils.nodes

import asgi_ipc

from .blocks import DOCS, ROOT, Block, blocks, parse

TESTS = ROOT / "tests"
#: For each page with code blocks: the test that exercises them, and where its project begins.
#:
#: - "empty": in a directory without anything
#: - "quickstart": in the project of the quick start, made from the blocks of that page
#: - "clone": in a fresh clone of the repository
#: - "machine": on a machine of its own, see ``deployment/machine.py``
#: - "read": nowhere: the block is no program, and the test compares it with the code
PAGES = {
    "CONTRIBUTING.rst": ("docs/test_clone.py::test_the_guide_for_contributors", "clone"),
    "README.rst": ("docs/test_readme.py::test_each_block_is_tested", "empty"),
    "docs/api.rst": ("docs/test_complete.py::test_the_hierarchy_of_exceptions", "read"),
    "docs/channels1.rst": ("channels1/test_docs_page.py::test_the_page", "empty"),
    "docs/consumers.rst": ("docs/test_pages.py::test_consumers", "quickstart"),
    "docs/design.rst": ("docs/test_design.py", "read"),
    "docs/example.rst": ("docs/test_clone.py::test_the_example_chat", "clone"),
    "docs/from-1.x.rst": ("docs/test_pages.py::test_from_1x", "empty"),
    "docs/index.rst": ("docs/test_pages.py::test_index", "quickstart"),
    "docs/options.rst": ("docs/test_pages.py::test_options", "quickstart"),
    "docs/performance.rst": ("docs/test_clone.py::test_the_command_of_the_benchmarks", "clone"),
    "docs/quickstart.rst": ("docs/test_quickstart.py::test_the_page_to_the_letter", "empty"),
    "docs/scripts.rst": ("docs/test_pages.py::test_scripts", "quickstart"),
    "docs/synchronous.rst": ("docs/test_pages.py::test_synchronous", "empty"),
    "docs/testing.rst": ("docs/test_pages.py::test_testing", "quickstart"),
    "docs/troubleshooting.rst": ("docs/test_pages.py::test_troubleshooting", "empty"),
    "examples/chat/README.rst": ("docs/test_clone.py::test_the_readme_of_the_chat_has_the_same_commands", "clone"),
    # Each of the modules in tests/docs/deployment names its page, and checks that it has a test for each section.
    "docs/deployment/docker.rst": ("docs/deployment/test_docker.py", "machine"),
    "docs/deployment/index.rst": ("docs/deployment/test_index.py", "machine"),
    "docs/deployment/kubernetes.rst": ("docs/deployment/test_kubernetes.py", "machine"),
    "docs/deployment/servers.rst": ("docs/deployment/test_servers.py", "machine"),
    "docs/deployment/systemd.rst": ("docs/deployment/test_systemd.py", "machine"),
    "docs/deployment/users.rst": ("docs/deployment/test_users.py", "machine"),
    "docs/deployment/windows.rst": ("docs/deployment/test_windows.py", "machine"),
}
#: Pages that include one of the table.
INCLUDE = {"docs/contributing.rst": "CONTRIBUTING.rst"}
#: Pages that GitHub shows, in addition to those of the documentation.
OTHER = ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "SECURITY.rst", "examples/chat/README.rst"]
#: The kinds of blocks. Each is run, written, compared with the output of another one, or read.
LANGUAGES = {"", "conf", "console", "docker", "dockerfile", "html", "ini", "javascript", "nginx", "none"} | {
    "powershell", "pycon", "python", "sh", "shell", "text", "toml", "yaml",
}  # fmt: skip


def pages() -> list[Path]:
    """Return all pages."""
    return sorted([*DOCS.rglob("*.rst"), *(ROOT / name for name in OTHER if (ROOT / name).exists())])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def built(html: Path, page: str) -> list[str]:
    """Return the text of each block of a page as Sphinx has read it, with all that the page includes."""
    document = pickle.loads((html / ".doctrees" / f"{page}.doctree").read_bytes())
    kinds = (docutils.nodes.literal_block, docutils.nodes.doctest_block)
    return [node.astext() for node in document.findall(lambda node: isinstance(node, kinds))]


def test_each_page_with_blocks_has_a_test(html: Path) -> None:
    with_blocks = {name_of(path) for path in pages() if path.is_relative_to(DOCS) and built(html, _document(path))}
    with_blocks |= {name for name in OTHER if any(True for _ in blocks(ROOT / name))}
    covered = {page for page in with_blocks if INCLUDE.get(page, page) in PAGES}
    assert with_blocks - covered == set(), "pages with code blocks that no test exercises: add them to PAGES"
    assert {name for name in PAGES if name not in with_blocks} == set(), "not a page, or a page without code blocks"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_test_of_a_page_exists_and_names_it(page: str) -> None:
    module, _, function = PAGES[page][0].partition("::")
    path = TESTS / module
    assert path.exists()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not function or function in functions
    assert any(name.startswith("test_") for name in functions)
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    last = page.rpartition("/")[2]
    assert any(name == last or name.endswith(f"/{last}") for name in names), f"{module} does not name {page}"


@pytest.mark.parametrize("page", sorted(page for page in PAGES if page.startswith("docs/") and page != "docs/api.rst"))
def test_the_tests_see_the_same_blocks_as_sphinx(html: Path, page: str) -> None:
    """The tests read a page with docutils, and know only what it has itself. Sphinx shows what autodoc adds as well."""
    seen = [block.text.rstrip("\n") for _, block in blocks(ROOT / page)]
    assert Counter(map(_dedent, seen)) == Counter(map(_dedent, built(html, _document(ROOT / page))))


@pytest.mark.parametrize("path", [path for path in pages() if path.name != "api.rst"], ids=name_of)
def test_each_block_is_of_a_known_kind(path: Path) -> None:
    assert {block.language for _, block in blocks(path)} <= LANGUAGES


@pytest.mark.parametrize("path", [path for path in pages() if path.name != "api.rst"], ids=name_of)
def test_console_blocks_begin_with_a_command(path: Path) -> None:
    for _, block in blocks(path):
        if block.language == "console":
            assert block.steps
            assert not any(command.startswith("sudo pip") for command in block.commands)


@pytest.mark.parametrize("path", [path for path in pages() if path.name != "api.rst"], ids=name_of)
def test_no_term_has_run_into_its_definition(path: Path) -> None:
    """
    Sphinx does not warn of a definition that begins on the line of its term: "``capacity`` The number ...".

    It is a paragraph or, if its second line is indented, a term.
    """
    kinds = (docutils.nodes.paragraph, docutils.nodes.term)
    for node in parse(path).findall(lambda node: isinstance(node, kinds)):
        if len(node) > 1 and isinstance(node[0], docutils.nodes.literal):
            assert not re.match(r" [A-Z][a-z]* ", node[1].astext()), node.astext()


def test_the_hierarchy_of_exceptions(html: Path) -> None:
    """The drawing in the API reference shows each exception below its base."""
    (drawing,) = built(html, "api")
    stack: list[tuple[int, str]] = []
    bases: dict[str, str] = {}
    for line in drawing.splitlines():
        found = re.search(r"\w+", line)
        assert found
        while stack and stack[-1][0] >= found.start():
            stack.pop()
        if stack:
            bases[found[0]] = stack[-1][1]
        stack.append((found.start(), found[0]))
    everything = {name: getattr(asgi_ipc, name) for name in asgi_ipc.__all__}
    public = [each for each in everything.values() if isinstance(each, type) and issubclass(each, Exception)]
    shown = [*public, Exception]
    nearest = {each.__name__: next(base for base in each.__mro__[1:] if base in shown) for each in public}
    assert {name: base.__name__ for name, base in nearest.items()} == bases


def _document(path: Path) -> str:
    return path.relative_to(DOCS).with_suffix("").as_posix()


def _dedent(text: str) -> str:
    """Remove what the two readers keep differently: spaces at the ends of lines, and empty lines at the end."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def test_a_block_that_nothing_runs_is_an_error() -> None:
    """``Project`` refuses what it does not know, so a new kind of block cannot pass by being left out."""
    pytest.importorskip("packaging", reason="needs packaging: see tests/docs/requirements.txt")
    from .project import Project

    with pytest.raises(AssertionError, match="nothing runs a block of 'ruby'"):
        Project.run(Project.__new__(Project), Block("ruby", "puts 1\n"))
