"""The page of guarantees has the sentences of the README, and names tests that exist."""

from __future__ import annotations

import re

from .blocks import DOCS, ROOT

PAGE = (DOCS / "guarantees.rst").read_text(encoding="utf-8")


def plain(text: str) -> str:
    """Return a text without markup and line breaks."""
    return " ".join(re.sub(r"\*\*|``", "", text).split())


def test_the_readme_promises_what_the_page_explains() -> None:
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    section = readme.split("What it never does to you\n---")[1].split("\n\n", 1)[1].split("\n\n")[0]
    promises = [plain(each) for each in re.split(r"^\* ", section, flags=re.MULTILINE) if each.strip()]
    assert len(promises) > 4
    page = plain(PAGE)
    for promise in promises:
        assert promise in page, promise


def test_the_page_names_tests_that_exist() -> None:
    named = re.findall(r"``(tests/[\w/.]+)``", PAGE)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path


def test_each_guarantee_has_its_limits_and_its_tests() -> None:
    guarantees = len(re.findall(r"^\*\*", PAGE, flags=re.MULTILINE))
    assert guarantees > 10
    assert PAGE.count("* *Limits.*") == PAGE.count("* *Tests.*") == guarantees
