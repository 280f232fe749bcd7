"""The README on PyPI: it renders, and each of its links leads to something."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from .archives import ROOT, Archives, needs_tools, sources

pytestmark = needs_tools

nodes = pytest.importorskip("docutils.nodes", reason="needs docutils, which comes with twine")
readme_renderer = pytest.importorskip("readme_renderer.rst", reason="needs readme_renderer, which comes with twine")

RAW = "raw.githubusercontent.com"
#: A title: a line, and one below it of the same length or more, of one punctuation character.
TITLE = re.compile(r"^(?P<title>\S.*)\n(?P<mark>[^\w\s])(?P=mark){2,}$", re.MULTILINE)
LABEL = re.compile(r"^\.\. _([^:\n]+):$", re.MULTILINE)
INCLUDE = re.compile(r"^\.\. include:: (\S+)$", re.MULTILINE)


class Page(HTMLParser):
    """The links, images and anchors of an HTML page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is not None:
                if name == "id":
                    self.anchors.add(value)
                elif name == "href":
                    self.links.append(value)
                elif name == "src":
                    self.images.append(value)


def render(text: str) -> Page:
    """Render RST as PyPI does; fail with the renderer's warnings."""
    warnings = io.StringIO()
    html = readme_renderer.render(text, stream=warnings)
    assert html is not None, warnings.getvalue()
    assert warnings.getvalue() == ""
    return Page(html)


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page in RST: one for each title and label, in the files that it includes, too."""
    text = path.read_text()
    named = [each["title"] for each in TITLE.finditer(text)] + LABEL.findall(text)
    included = [anchors_of(path.parent / name) for name in INCLUDE.findall(text)]
    return {nodes.make_id(name) for name in named}.union(*included)


def problem(url: str, metadata: Message, tracked: set[str], anchors: set[str]) -> str | None:
    """Return what is wrong with a link of the long description, or of the metadata."""
    parts = urlsplit(url)
    if not parts.scheme:
        return None if url.startswith("#") and url[1:] in anchors else "neither absolute nor an anchor of the page"
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    repository, documentation = urlsplit(urls["Source"]), urlsplit(urls["Documentation"])
    if parts.netloc == documentation.netloc:
        latest = documentation.path.replace("/stable/", "/latest/")
        page = re.fullmatch(rf"/|(?:{documentation.path}|{latest})(?:(.*)\.html)?", parts.path)
        if page is None:
            return f"not a page below {documentation.path}"
        name = f"docs/{page[1] or 'index'}.rst"
    elif parts.netloc in (repository.netloc, RAW) and f"{parts.path}/".startswith(f"{repository.path}/"):
        inside = parts.path[len(repository.path) + 1 :]
        if parts.netloc == repository.netloc and not inside.startswith("blob/"):
            is_known = inside in ("", "issues", "security/advisories/new") or inside.startswith("compare/")
            return None if is_known else "not a page of GitHub that these tests know"
        tag, _, name = inside[len("blob/") if parts.netloc == repository.netloc else 0 :].partition("/")
        if tag != metadata["Version"]:
            return f"not of the tag {metadata['Version']}"
    else:
        return None
    if name not in tracked:
        return f"there is no {name} in Git"
    if parts.fragment and name.endswith(".rst") and parts.fragment not in anchors_of(ROOT / name):
        return f"{name} has no {parts.fragment}"
    return None


def problems(urls: Iterable[str], metadata: Message, tracked: set[str], anchors: set[str]) -> str:
    """Return a line for each wrong link."""
    found = {url: problem(url, metadata, tracked, anchors) for url in urls}
    return "\n".join(f"{url}: {why}" for url, why in found.items() if why)


def test_every_link_leads_to_something(archives: Archives) -> None:
    metadata = archives.metadata()
    page = render(str(metadata.get_payload()))
    tracked = sources()
    assert page.images
    links = [*page.links, *page.images, *(line.split(", ", 1)[1] for line in metadata.get_all("Project-URL", []))]
    assert problems(links, metadata, tracked, page.anchors) == ""


@pytest.mark.parametrize("name", ["CHANGELOG.rst", "CONTRIBUTING.rst", "SECURITY.rst"])
def test_pages_that_the_documentation_includes_have_no_relative_links(archives: Archives, name: str) -> None:
    """GitHub shows them in the top folder, the documentation in another one."""
    page = render((ROOT / name).read_text())
    assert page.links
    assert page.images == []
    assert problems(page.links, archives.metadata(), sources(), page.anchors) == ""


def test_images_are_files_and_links_are_pages(archives: Archives) -> None:
    """GitHub shows a page about an image under ``blob``, which PyPI cannot embed."""
    page = render(str(archives.metadata().get_payload()))
    assert [url for url in page.images if "/blob/" in url] == []
    assert [url for url in page.links if RAW in url] == []


def test_the_readme_of_the_repository_keeps_relative_links() -> None:
    """So that a reader of a branch or a fork stays there."""
    page = render((ROOT / "README.rst").read_text())
    assert [url for url in page.links + page.images if "/blob/" in url or RAW in url] == []
    assert "docs/design.rst" in page.links


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("docs/design.rst", "neither absolute"),
        ("#nowhere", "neither absolute"),
        ("https://github.com/django/asgi_ipc/blob/main/README.rst", "not of the tag"),
        ("https://github.com/django/asgi_ipc/blob/2.0.0/docs/nothing.rst", "there is no docs/nothing.rst"),
        ("https://github.com/django/asgi_ipc/blob/2.0.0/docs/design.rst#nowhere", "has no nowhere"),
        ("https://github.com/django/asgi_ipc/isues", "not a page of GitHub"),
        ("https://raw.githubusercontent.com/django/asgi_ipc/2.0.0/docs/images/nothing.svg", "there is no"),
        ("https://asgi-ipc.readthedocs.io/en/stable/nothing.html", "there is no docs/nothing.rst"),
        ("https://asgi-ipc.readthedocs.io/design.html", "not a page below /en/stable/"),
        ("https://asgi-ipc.readthedocs.io/en/stable/design.rst", "not a page below /en/stable/"),
        ("https://asgi-ipc.readthedocs.io/en/stable/design.html#nowhere", "has no nowhere"),
    ],
)
def test_wrong_links_are_found(url: str, why: str) -> None:
    assert why in (problem(url, example(), sources(), {"install"}) or "nothing")


@pytest.mark.parametrize(
    "url",
    [
        "#install",
        "https://www.djangoproject.com/",
        "https://github.com/django/asgi_ipc",
        "https://github.com/django/asgi_ipc/compare/1.4.2...2.0.0",
        "https://github.com/django/asgi_ipc/blob/2.0.0/README.rst",
        "https://github.com/django/asgi_ipc/blob/2.0.0/docs/design.rst#where-do-i-change",
        "https://raw.githubusercontent.com/django/asgi_ipc/2.0.0/docs/images/chat.png",
        "https://asgi-ipc.readthedocs.io/",
        "https://asgi-ipc.readthedocs.io/en/latest/",
        "https://asgi-ipc.readthedocs.io/en/stable/design.html#memory",
    ],
)
def test_right_links_are_accepted(url: str) -> None:
    assert problem(url, example(), sources(), {"install"}) is None


def example() -> Message:
    """Return metadata with what ``problem`` needs."""
    message = Message()
    message["Version"] = "2.0.0"
    message["Project-URL"] = "Source, https://github.com/django/asgi_ipc"
    message["Project-URL"] = "Documentation, https://asgi-ipc.readthedocs.io/en/stable/"
    return message
