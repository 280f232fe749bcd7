"""Every link of the documentation leads to something: pages, anchors, images, scripts and files of the repository."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("docutils", reason="needs docutils: see tests/docs/requirements.txt")

ROOT = Path(__file__).resolve().parents[2]
#: The pages that GitHub shows, and whose links must work there.
ON_GITHUB = ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "SECURITY.rst", "examples/chat/README.rst"]
SITE = "asgi-ipc.readthedocs.io"
REPOSITORY = "https://github.com/django/asgi_ipc"
#: Where a reader's own server listens. Only these addresses are without TLS.
OWN_MACHINE = ("http://127.0.0.1:8000", "http://localhost:8000")
#: Links of the theme. The tests look at those of the pages.
OF_THE_THEME = ("https://github.com/pradyunsg/furo", "https://www.sphinx-doc.org/", "https://pradyunsg.me")


class Page(HTMLParser):
    """The links and anchors of an HTML page, and its images without a description."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.undescribed: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value is not None}
        self.targets += [values[name] for name in ("href", "src") if name in values]
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        # Sphinx and docutils describe an image without ":alt:" by its path.
        if tag == "img" and values.get("alt", "").strip() in ("", values.get("src")):
            self.undescribed.append(values.get("src", "?"))


@cache
def read(path: Path) -> Page:
    """Parse a page once, however many links lead to it."""
    return Page(path)


def problem(html: Path, page: Path, target: str) -> str:
    """Return what is wrong with a link of a built page; an empty string if it is right."""
    parts = urlsplit(target)
    if parts.scheme in ("data", "mailto"):
        return ""
    if parts.netloc == SITE:
        return site_problem(html, parts.path, parts.fragment)
    if parts.scheme or parts.netloc:
        return external_problem(target)
    found = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not found.is_file():
        return "no such page or file"
    if parts.fragment and found.suffix == ".html" and unquote(parts.fragment) not in read(found).anchors:
        return "no such anchor"
    return ""


def external_problem(target: str) -> str:
    """Return what is wrong with the form of a link to another site. Nothing is requested from it."""
    parts = urlsplit(target)
    if target.startswith(OWN_MACHINE):
        return ""
    if parts.scheme != "https":
        return "not https"
    if "." not in parts.netloc or " " in target:
        return "not an address"
    if target.startswith((f"{REPOSITORY}/blob/", f"{REPOSITORY}/tree/", f"{REPOSITORY}/edit/")):
        name = parts.path.split("/", 5)[5]
        return "" if (ROOT / name).exists() else "no such file in the repository"
    return ""


def site_problem(html: Path, path: str, fragment: str) -> str:
    """Return what is wrong with a link from elsewhere to the documentation: ``/en/<version>/<page>``."""
    *_, name = path.split("/", 3)
    page = html / (name or "index.html")
    if path not in ("", "/") and not path.startswith(("/en/stable/", "/en/latest/")):
        return "neither /en/stable/ nor /en/latest/"
    if path not in ("", "/") and not page.is_file():
        return "no such page"
    return "" if not fragment or fragment in read(page).anchors else "no such anchor"


def test_links_of_the_documentation(html: Path) -> None:
    wrong, count = [], 0
    for path in sorted(html.rglob("*.html")):
        for target in read(path).targets:
            if not target.startswith(OF_THE_THEME):
                count += 1
                why = problem(html, path, target)
                wrong += [f"{path.relative_to(html)}: {target}: {why}"] if why else []
    assert count > 100
    assert wrong == []


def test_images_have_descriptions(html: Path) -> None:
    assert {path.name: read(path).undescribed for path in html.rglob("*.html") if read(path).undescribed} == {}


@pytest.mark.parametrize("name", ON_GITHUB)
def test_links_on_github(html: Path, tmp_path: Path, name: str) -> None:
    rendered = tmp_path / "page.html"
    command = [sys.executable, "-m", "docutils", "--link-stylesheet", "--stylesheet=", str(ROOT / name), str(rendered)]
    subprocess.run(command, check=True)
    page = Page(rendered)
    wrong = [f"{src}: no description" for src in page.undescribed]
    for target in page.targets:
        parts = urlsplit(target)
        if parts.scheme:
            why = problem(html, rendered, target)
        elif not parts.path:
            why = "" if parts.fragment in page.anchors else "no such anchor"
        else:
            why = file_problem(html, (ROOT / name).parent / unquote(parts.path), parts.fragment)
        wrong += [f"{target}: {why}"] if why else []
    assert wrong == []


def file_problem(html: Path, path: Path, fragment: str) -> str:
    """Return what is wrong with a relative link from one file of the repository to another."""
    if not path.exists():
        return "no such file"
    if not fragment:
        return ""
    docs = ROOT / "docs"
    if path.suffix != ".rst" or docs not in path.parents:
        return "an anchor outside the documentation"
    page = html / path.relative_to(docs).with_suffix(".html")
    return "" if fragment in read(page).anchors else "no such anchor"


def test_the_tests_notice_wrong_links(html: Path) -> None:
    page = html / "index.html"
    expected = {
        "quickstart.html": "",
        "quickstart.html#install": "",
        "#no-such-anchor": "no such anchor",
        "quickstart.html#no-such-anchor": "no such anchor",
        "nothing.html": "no such page or file",
        "_images/nothing.png": "no such page or file",
        "http://www.djangoproject.com/": "not https",
        "http://127.0.0.1:8000/": "",
        f"{REPOSITORY}/blob/main/nothing.rst": "no such file in the repository",
        f"{REPOSITORY}/blob/main/README.rst": "",
        f"https://{SITE}/": "",
        f"https://{SITE}/en/latest/nothing.html": "no such page",
        f"https://{SITE}/en/stable/quickstart.html#nothing": "no such anchor",
        f"https://{SITE}/quickstart.html": "neither /en/stable/ nor /en/latest/",
    }
    assert {target: problem(html, page, target) for target in expected} == expected
